// Curves read at equal cost, and what it takes to reach an outcome.
#include "lmhead/statistics/curves.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/run/cost.h"

namespace lmhead {
namespace {

/// Loss falls by one for every factor e of the cost: interpolation in the logarithm is exact.
LearningCurve logarithmic(double start) {
  LearningCurve curve;
  for (const double cost : {1.0, 3.0, 10.0, 25.0}) {
    curve.cost.push_back(cost);
    curve.outcome.push_back(start - std::log(cost));
  }
  return curve;
}

TEST(LearningCurves, AreReadLinearlyInTheLogarithm) {
  for (const double cost : {1.0, 2.0, 5.0, 10.0, 24.0, 25.0})
    EXPECT_NEAR(*outcome_at(logarithmic(4), cost), 4 - std::log(cost), 1e-12);
  EXPECT_FALSE(outcome_at(logarithmic(4), 0.9).has_value());
  EXPECT_FALSE(outcome_at(logarithmic(4), 26).has_value());
  EXPECT_FALSE(outcome_at({}, 1).has_value());
}

TEST(LearningCurves, TellWhatItCostsToReachAnOutcome) {
  EXPECT_NEAR(*cost_to_reach(logarithmic(4), 4 - std::log(7), false), 7, 1e-12);
  EXPECT_EQ(cost_to_reach(logarithmic(4), 9, false), 1);
  EXPECT_FALSE(cost_to_reach(logarithmic(4), 0, false).has_value());
  LearningCurve rising = logarithmic(0);
  for (double& outcome : rising.outcome) outcome = -outcome;
  EXPECT_NEAR(*cost_to_reach(rising, std::log(7), true), 7, 1e-12);
}

TEST(LearningCurves, AreComparedAtTheLargestCostThatAllReach) {
  LearningCurve shorter = logarithmic(4);
  shorter.cost.pop_back();
  shorter.outcome.pop_back();
  EXPECT_EQ(largest_common_cost({logarithmic(4), shorter}), 10);
  EXPECT_FALSE(largest_common_cost({logarithmic(4), {}}).has_value());
  EXPECT_FALSE(largest_common_cost({}).has_value());
}

TEST(TrainingFlops, AreSixAMatrixNumberAndTwelveAnAttendedPosition) {
  TrainConfiguration configuration;
  DecoderOptions& model = configuration.model;
  model.hidden_size = 32;
  model.num_hidden_layers = 4;
  model.num_attention_heads = 4;
  model.intermediate_size = 80;
  configuration.data.sequence_length = 64;
  // Queries, keys, values and output: 4 x 32 x 32; gate, up and down: 3 x 32 x 80; the head: 32 x 257.
  const double layers = 4 * (4 * 32 * 32 + 3 * 32 * 80), attention = 12.0 * 4 * 64 * 32;
  EXPECT_EQ(training_flops_per_token(configuration, 257), 6 * (layers + 32 * 257) + attention);
  model.tie_word_embeddings = true;  // the product is there all the same
  EXPECT_EQ(training_flops_per_token(configuration, 257), 6 * (layers + 32 * 257) + attention);
  model.tie_word_embeddings = false;
  configuration.head = read_options<TrainConfiguration>({{"head", {{"type", "low_rank"}, {"rank", 4}}}}).head;
  EXPECT_EQ(training_flops_per_token(configuration, 257), 6 * (layers + 4 * (32 + 257)) + attention);
  model.num_key_value_heads = 2;
  EXPECT_EQ(training_flops_per_token(configuration, 257), 6 * (layers - 4 * 2 * 32 * 16 + 4 * (32 + 257)) + attention);
}

TEST(TrainingFlops, CountWhatRulesOnTheHeadsGradientsAdd) {
  TrainConfiguration configuration;
  configuration.model.hidden_size = 32;
  configuration.model.num_attention_heads = 4;
  configuration.data.batch_size = 8;
  configuration.data.sequence_length = 64;
  const double plain = training_flops_per_token(configuration, 257), tokens = 8 * 64;
  configuration.head_gradient.hidden.rule = "whitened";
  configuration.head_gradient.hidden.matrix = "gradient_covariance";
  // The covariance and the product with its power, and eleven cubes for the power itself.
  EXPECT_DOUBLE_EQ(training_flops_per_token(configuration, 257), plain + 4 * 32 * 32 + 11 * 32 * 32 * 32 / tokens);
}

}  // namespace
}  // namespace lmhead
