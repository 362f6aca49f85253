// What the contract test does not know: what a mixture of softmaxes is where it is nothing new.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tanh.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

constexpr const char* kType = "mixture_of_softmaxes";

TEST(MixtureOfSoftmaxes, OfOneComponentIsTheLinearHeadOnItsFeatures) {
  const Shape shape = {16, 33, 9};
  Bench mixture(kType, {{{"components", 1}}}, shape), linear("linear", {Json::object()}, shape);
  at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> values;
  for (const ParameterPtr& parameter : mixture.all) values[parameter->name] = parameter->value;
  linear.all[0]->value.copy_(values.at("lm_head.weight"));
  const at::Tensor features = at::tanh(at::linear(mixture.hidden, values.at("lm_head.latent_proj.weight")));
  const HeadInput input{.hidden = features};
  EXPECT_TRUE(mixture.head->token_losses(mixture.input(), mixture.targets)
                  .equal(linear.head->token_losses(input, mixture.targets)));
  EXPECT_TRUE(mixture.head->loss(mixture.input(), mixture.targets).equal(linear.head->loss(input, mixture.targets)));
  EXPECT_EQ(mixture.all.size(), 2u);  // no prior of one
}

TEST(MixtureOfSoftmaxes, OfEqualComponentsIsOneOfThem) {
  Bench many(kType, {{{"components", 3}}}, {16, 33, 9}), one(kType, {{{"components", 1}}}, {16, 33, 9});
  at::NoGradGuard no_grad;
  for (const ParameterPtr& parameter : many.all)
    if (parameter->name == "lm_head.weight") parameter->value.copy_(one.all[0]->value);
    else if (parameter->name == "lm_head.latent_proj.weight") parameter->value.copy_(one.all[1]->value.repeat({3, 1}));
  const at::Tensor got = many.head->token_losses(many.input(), many.targets);
  EXPECT_LE((got - one.head->token_losses(one.input(), one.targets)).abs().max().item<double>(), 1e-5);
}

TEST(MixtureOfSoftmaxes, InitialLogitsAreAsLargeAsTheDenseHeads) {
  const at::Tensor hidden = normal({512, 64}, "features").to(at::kFloat);
  const HeadContext context{64, 2048, fresh_parameters(0), 0.02, nullptr};
  const auto head = specification_of(kType, {{{"components", 1}}}).make(context);
  const at::Tensor log_p = head->logits({.hidden = hidden});
  EXPECT_NEAR((log_p - log_p.mean(1, true)).square().mean().sqrt().item<double>() / (0.02 * 8), 1, 0.03);
}

TEST(MixtureOfSoftmaxes, BadSettingsAreRefusedInOneLine) {
  EXPECT_ERROR(specification_of(kType, {{{"components", 0}}}),
               "components must be an integer of at least 1 and at most 65536, got 0");
  EXPECT_ERROR(specification_of(kType, {{{"component", 2}}}), "did you mean components?");
}

}  // namespace
}  // namespace lmhead
