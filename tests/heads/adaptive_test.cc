// The adaptive head beside torch's own module.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/adaptive.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

double largest_difference(const at::Tensor& left, const at::Tensor& right) {
  return (left - right).abs().max().item<double>();
}

TEST(AdaptiveHead, IsTorchsModuleWithTheSameWeights) {
  constexpr Shape kShape = {120, 60, 32};
  Bench bench("adaptive", {{{"cutoffs", {10, 30}}}}, kShape);  // the bench's counts fall with the id, as torch asks for
  torch::nn::AdaptiveLogSoftmaxWithLoss module(
      torch::nn::AdaptiveLogSoftmaxWithLossOptions(kShape.hidden_size, kShape.vocab_size, {10, 30}).div_value(4));
  std::vector<at::Tensor> theirs = module->parameters(), ours;
  for (const ParameterPtr& parameter : bench.head->parameters())
    if (parameter->kind != ParameterKind::kConstant) ours.push_back(parameter->value);
  ASSERT_EQ(theirs.size(), ours.size());
  {
    at::NoGradGuard no_grad;
    for (std::size_t index = 0; index < ours.size(); ++index) {
      ASSERT_EQ(theirs[index].sizes(), ours[index].sizes()) << index;
      theirs[index].copy_(ours[index]);
    }
  }
  bench.require_gradients();
  const at::Tensor hidden = bench.hidden.detach().clone().requires_grad_(true);
  const auto want = module->forward(hidden, bench.targets);
  const at::Tensor loss = bench.head->loss(bench.input(), bench.targets);
  EXPECT_NEAR(loss.item<double>(), want.loss, 1e-5);
  EXPECT_LE(largest_difference(-bench.head->token_losses(bench.input(), bench.targets), want.output), 1e-5);
  // Logits reach about 60 here, where neighbours in float32 lie 4e-6 apart; either way rounds a few times.
  EXPECT_LE(largest_difference(bench.head->log_probabilities(bench.input()), module->log_prob(hidden)), 2e-5);
  loss.backward();
  want.output.mean().neg().backward();
  EXPECT_LE(largest_difference(bench.hidden.grad(), hidden.grad()), 1e-5);
  for (std::size_t index = 0; index < ours.size(); ++index)
    EXPECT_LE(largest_difference(ours[index].grad(), theirs[index].grad()), 1e-5) << index;
}

TEST(AdaptiveHead, WordsStandByTheirCount) {
  HeadContext context{.hidden_size = 8, .vocab_size = 6, .source = fresh_parameters(0), .initializer_range = 1};
  context.token_counts = [] { return at::arange(6); };
  const auto head = specification_of("adaptive", {{{"cutoffs", {2, 4}}}}).make(context);
  EXPECT_EQ(head->parameters()[0]->name, "lm_head.word_order");
  EXPECT_TRUE(head->parameters()[0]->value.equal(at::arange(5, -1, -1).to(at::kFloat)));
  EXPECT_EQ(head->parameters()[2]->value.sizes(), (at::IntArrayRef{4, 8}));  // two words and two tails
}

TEST(AdaptiveHead, BadCutoffsAreRefused) {
  const HeadContext context{.hidden_size = 4, .vocab_size = 9, .source = fresh_parameters(0), .initializer_range = 1};
  const auto make = [&](const Json& json) { specification_of("adaptive", {json}).make(context); };
  for (const char* cutoffs : {"[4, 4]", "[5, 3]", "[9]", "[2, 9]", "[12]"})
    EXPECT_ERROR(make({{"cutoffs", Json::parse(cutoffs)}}),
                 std::string("[adaptive] cutoffs must rise and lie between 1 and 8, got ") + cutoffs);
  EXPECT_ERROR(make({{"cutoffs", {0}}}), "cutoffs");
  EXPECT_ERROR(make({{"width_divisor", 0.5}}), "width_divisor must be");
}

}  // namespace
}  // namespace lmhead
