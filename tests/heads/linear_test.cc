// The options of the linear head.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

std::unique_ptr<LmHead> linear_of(const Json& options, const std::function<at::Tensor()>& counts = {},
                                  const ParameterPtr& embedding = nullptr) {
  return specification_of("linear", {options})
      .make({.hidden_size = 6,
             .vocab_size = 9,
             .source = fresh_parameters(0),
             .initializer_range = 0.02,
             .tied_embedding = embedding,
             .token_counts = counts});
}
at::Tensor counts() { return at::arange(9, at::kLong) * 10; }

TEST(LinearHead, BeginsAtLogCountsWhereAsked) {
  const Json options = {
      {"bias", true}, {"bias_initialization", "log_counts"}, {"initializer_range", 0}, {"mup_base_width", 3}};
  // With W at zero the first loss is the unigram's: of word 7, counted 70 times of 360.
  const auto head = linear_of(options, counts);
  const at::Tensor hidden = normal({2, 6}, "features").to(at::kFloat);
  const at::Tensor losses = head->token_losses({.hidden = hidden}, at::zeros({2}, at::kLong) + 7);
  EXPECT_NEAR(losses[0].item<double>(), -std::log(71.0 / 369), 1e-5);
  EXPECT_EQ(head->linear_map()->weight.abs().max().item<double>(), 0);
  EXPECT_TRUE(losses[1].equal(losses[0]));
}

TEST(LinearHead, LogCountsThatAreNotThereAreRefused) {
  const Json options = {{"bias", true}, {"bias_initialization", "log_counts"}};
  EXPECT_ERROR(linear_of(options), "head.bias_initialization must be zeros for data whose tokens are not counted");
  EXPECT_ERROR(linear_of(options, [] { return at::Tensor(); }), "head.bias_initialization must be zeros");
  EXPECT_ERROR(linear_of({{"bias_initialization", "log_counts"}}, counts), "head.bias must be true for");
  EXPECT_ERROR(linear_of({{"bias_initialization", "counts"}}), "bias_initialization must be");
}

TEST(LinearHead, SigmoidCapsAreRefusedWhereTheyAreNone) {
  EXPECT_ERROR(linear_of({{"sigmoid_cap", {23, 5}}}), "head.sigmoid_cap must be [] or three numbers A, b, c");
  EXPECT_ERROR(linear_of({{"sigmoid_cap", {23, 5, 0}}}), "got [23.0,5.0,0.0]");
  EXPECT_ERROR(linear_of({{"sigmoid_cap", {23, 5, 7.5}}, {"logit_softcap", 3.0}}),
               "head.logit_softcap must be 0 beside head.sigmoid_cap");
}

TEST(LinearHead, CentresItsRowsAfterAnUpdateAndChangesNoProbability) {
  const auto head = linear_of({{"center_rows", true}});
  const at::Tensor hidden = normal({4, 6}, "features").to(at::kFloat), targets = draw_targets(4, 9);
  {
    at::NoGradGuard no_grad;
    head->parameters()[0]->value.add_(0.3);
  }
  const at::Tensor before = head->token_losses({.hidden = hidden}, targets);
  head->after_update({.step = 1, .steps = 2});
  EXPECT_LE(head->linear_map()->weight.mean(0).abs().max().item<double>(), 1e-6);
  EXPECT_LE((head->token_losses({.hidden = hidden}, targets) - before).abs().max().item<double>(), 1e-5);
  const auto plain = linear_of(Json::object());
  const at::Tensor weight = plain->linear_map()->weight.clone();
  plain->after_update({.step = 1, .steps = 2});
  EXPECT_TRUE(plain->linear_map()->weight.equal(weight));
  const ParameterPtr embedding =
      fresh_parameters(0)(kEmbeddingName, ParameterKind::kEmbedding, {9, 6}, normal_initializer(1), {});
  EXPECT_ERROR(linear_of({{"center_rows", true}}, {}, embedding), "head.center_rows must be false where");
}

TEST(LinearHead, SaysHowLongItsMeanRowIsWhereItIsPenalised) {
  Bench bench("linear", {{{"mean_row_penalty", 0.5}}}, {4, 9, 6});
  const TrainingLoss loss = bench.head->training_loss(bench.input(), bench.targets);
  ASSERT_EQ(loss.figures.size(), 1u);
  EXPECT_EQ(loss.figures[0].first, "mean_row_norm");
  const double norm = bench.all[0]->value.mean(0).norm().item<double>();
  EXPECT_NEAR(loss.figures[0].second, norm, 1e-5);
  EXPECT_NEAR(loss.loss.item<double>(),
              bench.head->token_losses(bench.input(), bench.targets).mean().item<double>() + 0.5 * norm * norm, 1e-5);
}

}  // namespace
}  // namespace lmhead
