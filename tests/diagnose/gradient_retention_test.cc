#include "lmhead/diagnose/gradient_retention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/logspace.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

GradientRetentionResult measure(const oracle::Problem& problem, const HeadSpaceOptions& options = {}) {
  return measure_gradient_retention(problem.map, problem.hidden, problem.targets, {.head_space = options});
}

/// Every figure against its definition on the materialised gradient.
void expect_definitions(const oracle::Problem& problem, double tolerance) {
  const GradientRetentionResult result = measure(problem);
  const at::Tensor gradient = oracle::logit_gradient(problem), basis = oracle::basis(problem.map.weight);
  const double energy = oracle::retained_energy(gradient, basis);
  EXPECT_NEAR(result.retained_energy, energy, tolerance);
  EXPECT_NEAR(result.destroyed_ratio, std::sqrt(std::max(0.0, 1 - energy)), 10 * tolerance);
  EXPECT_NEAR(result.visible_cosine, std::sqrt(energy), tolerance);
  EXPECT_NEAR(result.step_cosine, oracle::step_cosine(gradient, problem.map.weight.to(at::kDouble)), tolerance);
  EXPECT_EQ(result.head_rank, basis.size(1));
  EXPECT_NEAR(result.null_destroyed_ratio, std::sqrt(1 - double(basis.size(1)) / problem.map.weight.size(0)), 1e-12);
  EXPECT_EQ(result.destroyed_excess, result.destroyed_ratio - result.null_destroyed_ratio);
  EXPECT_NEAR(std::pow(result.destroyed_ratio, 2) + std::pow(result.visible_cosine, 2), 1, 1e-12);
  EXPECT_EQ(result.tokens, problem.hidden.size(0));
}

/// V x D with given singular values.
at::Tensor with_singular_values(const at::Tensor& values, std::int64_t vocab_size) {
  const std::int64_t size = values.size(0);
  const at::Tensor left = std::get<0>(at::linalg_qr(oracle::normal("left", {vocab_size, size})));
  const at::Tensor right = std::get<0>(at::linalg_qr(oracle::normal("right", {size, size})));
  return at::matmul(left * values, right.t());
}

TEST(GradientRetention, EqualsTheDefinitionsAcrossShapes) {
  for (const auto& [tokens, hidden_size, vocab_size] :
       {std::array{1, 1, 2}, std::array{3, 1, 5}, std::array{50, 7, 23}, std::array{33, 64, 257}, std::array{5, 16, 16},
        std::array{4100, 3, 40}, std::array{6, 4, 8200}})
    expect_definitions(oracle::problem(tokens, hidden_size, vocab_size), hidden_size >= vocab_size ? 1e-7 : 1e-11);
}

TEST(GradientRetention, EqualsTheDefinitionsWithBiasScaleAndSoftcap) {
  oracle::Problem problem = oracle::problem(40, 9, 60);
  problem.map.bias = oracle::normal("bias", {60});
  problem.map.transform.scale = 0.7;
  expect_definitions(problem, 1e-11);
  problem.map.transform.softcap = 1.5;
  expect_definitions(problem, 1e-11);
}

TEST(GradientRetention, TakesTheGradientBeforeScaleAndSoftcap) {
  oracle::Problem problem = oracle::problem(1, 3, 6);
  problem.map.transform.scale = 0.7;
  problem.map.transform.softcap = 1.5;
  const at::Tensor gradient = oracle::logit_gradient(problem);
  const double step = 1e-6;
  for (std::int64_t index = 0; index < 6; ++index) {  // a bias moves the product and nothing else
    problem.map.bias = at::zeros({6}, at::kDouble);
    problem.map.bias[index] = step;
    const double above = plain_linear_cross_entropy(problem.hidden, problem.map, problem.targets).item<double>();
    problem.map.bias[index] = -step;
    const double below = plain_linear_cross_entropy(problem.hidden, problem.map, problem.targets).item<double>();
    EXPECT_NEAR(gradient[0][index].item<double>(), (above - below) / (2 * step), 1e-8);
  }
}

TEST(GradientRetention, CountsTheRankOfADeficientHead) {
  oracle::Problem problem = oracle::problem(40, 12, 90);
  problem.map.weight = at::matmul(oracle::normal("tall", {90, 5}), oracle::normal("wide", {5, 12}));
  expect_definitions(problem, 1e-10);
  EXPECT_EQ(measure(problem).head_rank, 5);

  // A product rounded to float32 still has the rank of its factors.
  problem.map.weight =
      at::matmul(oracle::normal("tall", {90, 5}).to(at::kFloat), oracle::normal("wide", {5, 12}).to(at::kFloat));
  EXPECT_EQ(measure(problem).head_rank, 5);
}

TEST(GradientRetention, SurvivesAConditionOfAMillion) {
  const at::Tensor values = at::linspace(0, -6, 16, at::kDouble);
  oracle::Problem problem = oracle::problem(40, 16, 200);
  problem.map.weight = with_singular_values(at::Tensor(values * std::log(10.0)).exp(), 200);
  expect_definitions(problem, 1e-9);
  const GradientRetentionResult result = measure(problem);
  EXPECT_NEAR(result.head_condition / 1e6, 1, 1e-6);

  // In float32 the gradient W^T d has lost the small directions; through Q it has not.
  problem.map.weight = with_singular_values(at::Tensor(values * (5.0 / 6) * std::log(10.0)).exp(), 200).to(at::kFloat);
  const oracle::Problem wide{
      problem.hidden, problem.targets, {.weight = problem.map.weight.to(at::kDouble), .bias = {}}};
  EXPECT_NEAR(measure(problem).retained_energy,
              oracle::retained_energy(oracle::logit_gradient(wide), oracle::basis(wide.map.weight)), 2e-7);
}

TEST(GradientRetention, SingularValuesAreThoseOfTheWeight) {
  for (const double exponent : {-1.0, -5.0}) {
    const at::Tensor values = at::Tensor(at::linspace(1, exponent, 16, at::kDouble) * std::log(10.0)).exp();
    const HeadSpace space({.weight = with_singular_values(values, 100), .bias = {}});
    EXPECT_LT(((space.singular_values() - values) / values).abs().max().item<double>(), 1e-8);
  }
  const HeadSpace wide({.weight = oracle::normal("weight", {3, 8}), .bias = {}});
  EXPECT_EQ(wide.singular_values().size(0), 3);
}

TEST(GradientRetention, NothingIsDestroyedWhereTheHeadSpansTheVocabulary) {
  for (const std::int64_t hidden_size : {6, 9}) {
    const GradientRetentionResult result = measure(oracle::problem(20, hidden_size, 6));
    EXPECT_EQ(result.destroyed_ratio, 0);
    EXPECT_EQ(result.null_destroyed_ratio, 0);
    EXPECT_EQ(result.head_rank, 6);
  }
}

TEST(GradientRetention, AZeroHeadDestroysEverything) {
  oracle::Problem problem = oracle::problem(20, 4, 9);
  problem.map.weight.zero_();
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    problem.map.weight = problem.map.weight.to(type);
    const GradientRetentionResult result = measure(problem);
    EXPECT_EQ(result.destroyed_ratio, 1);
    EXPECT_EQ(result.destroyed_excess, 0);
    EXPECT_EQ(result.visible_cosine, 0);
    EXPECT_EQ(result.step_cosine, 0);
    EXPECT_EQ(result.head_rank, 0);
    EXPECT_EQ(result.head_condition, 0);
  }
}

TEST(GradientRetention, ARandomHeadSitsAtTheNull) {
  // Independent heads for one gradient: the mean of r^2 lies within three standard errors of 1 - D / V.
  const std::int64_t vocab_size = 80, hidden_size = 10, draws = 60;
  const at::Tensor targets = oracle::random_ids("targets", 8, vocab_size);
  double sum = 0, square = 0;
  for (std::int64_t draw = 0; draw < draws; ++draw) {
    oracle::Problem problem = oracle::problem(8, hidden_size, vocab_size);
    problem.targets = targets;
    problem.map.weight = oracle::normal("draw" + std::to_string(draw), {vocab_size, hidden_size});
    // With features at zero P does not depend on W, so that the head is independent of the gradient.
    problem.hidden.zero_();
    problem.map.bias = oracle::normal("bias", {vocab_size});
    const double destroyed = std::pow(measure(problem).destroyed_ratio, 2);
    sum += destroyed;
    square += destroyed * destroyed;
  }
  const double mean = sum / draws, error = std::sqrt((square / draws - mean * mean) / (draws - 1));
  EXPECT_NEAR(mean, 1 - double(hidden_size) / vocab_size, 3 * error);
  EXPECT_LT(error, 0.01);
}

TEST(GradientRetention, InvertibleFactorsOfTheHeadChangeOnlyTheStep) {
  oracle::Problem problem = oracle::problem(30, 8, 50);
  const GradientRetentionResult before = measure(problem);
  // W R with features R^-T keeps the logits; the column space stays, the step that backpropagation takes does
  // not.
  const at::Tensor factor = oracle::normal("factor", {8, 8});
  problem.hidden = at::matmul(problem.hidden, factor.inverse().t());
  problem.map.weight = at::matmul(problem.map.weight, factor);
  const GradientRetentionResult after = measure(problem);
  EXPECT_NEAR(after.destroyed_ratio, before.destroyed_ratio, 1e-11);
  EXPECT_GT(std::abs(after.step_cosine - before.step_cosine), 1e-3);
}

TEST(GradientRetention, CenteringIgnoresACommonRowAndNothingElse) {
  oracle::Problem problem = oracle::problem(30, 8, 50);
  const HeadSpaceOptions centered{.rank_cutoff = {}, .center_weight = true};
  const GradientRetentionResult before = measure(problem, centered);
  const at::Tensor centered_weight = problem.map.weight - problem.map.weight.mean(0);
  const at::Tensor gradient = oracle::logit_gradient(problem);
  EXPECT_NEAR(before.retained_energy, oracle::retained_energy(gradient, oracle::basis(centered_weight)), 1e-11);
  EXPECT_NEAR(before.step_cosine, oracle::step_cosine(gradient, centered_weight), 1e-11);
  EXPECT_NEAR(before.null_destroyed_ratio, std::sqrt(1 - 8.0 / 49), 1e-12);
  const GradientRetentionResult plain = measure(problem);
  problem.map.weight = problem.map.weight + 30 * oracle::normal("row", {8});
  EXPECT_NEAR(measure(problem, centered).destroyed_ratio, before.destroyed_ratio, 1e-10);
  EXPECT_GT(std::abs(measure(problem).destroyed_ratio - plain.destroyed_ratio), 1e-6);
  EXPECT_TRUE(to_json(before).contains("centered"));

  problem.map.transform.softcap = 5;
  EXPECT_THROW(measure(problem, centered), Error);
}

TEST(GradientRetention, ACenteredSquareHeadSpansTheSumZeroPlane) {
  oracle::Problem problem = oracle::problem(30, 5, 6);
  EXPECT_EQ(measure(problem, {.rank_cutoff = {}, .center_weight = true}).destroyed_ratio, 0);
  EXPECT_GT(measure(problem).destroyed_ratio, 0.01);
}

TEST(GradientRetention, ACommonRowAloneHasNoCenteredSpace) {
  oracle::Problem problem = oracle::problem(30, 5, 200);
  problem.map.weight = problem.map.weight * 0 + oracle::normal("row", {5});
  EXPECT_EQ(measure(problem, {.rank_cutoff = {}, .center_weight = true}).head_rank, 0);
  EXPECT_EQ(measure(problem).head_rank, 1);
}

TEST(GradientRetention, HasNoRatiosWhereEveryGradientIsZero) {
  const GradientRetentionResult result = measure(oracle::problem(5, 3, 1));
  EXPECT_TRUE(std::isnan(result.destroyed_ratio));
  EXPECT_TRUE(to_json(result)["destroyed_ratio"].is_null());
  EXPECT_EQ(result.step_cosine, 0);
}

TEST(GradientRetention, UniformProbabilitiesHaveClosedFormFigures) {
  // Zero features, every symbol once: the energy of every direction of the sum-zero plane is the same.
  const std::int64_t vocab_size = 40, hidden_size = 6;
  oracle::Problem problem = oracle::problem(vocab_size, hidden_size, vocab_size);
  problem.hidden.zero_();
  problem.targets = at::arange(vocab_size, at::kLong);
  const GradientRetentionResult result = measure(problem, {.rank_cutoff = {}, .center_weight = true});
  EXPECT_NEAR(result.retained_energy, double(hidden_size) / (vocab_size - 1), 1e-12);
  EXPECT_NEAR(result.destroyed_excess, 0, 1e-12);
}

TEST(GradientRetention, StreamsInAnyChunksAndSkipsIgnoredRows) {
  oracle::Problem problem = oracle::problem(45, 8, 50);
  const GradientRetentionResult whole = measure(problem);
  GradientRetention retention(problem.map);
  std::int64_t row = 0;
  for (const std::int64_t rows : {1, 0, 30, 14}) {
    const at::Tensor hidden =
        at::cat(std::vector<at::Tensor>{problem.hidden.narrow(0, row, rows), oracle::normal("extra", {2, 8})});
    const at::Tensor targets =
        at::cat(std::vector<at::Tensor>{problem.targets.narrow(0, row, rows), at::full({2}, -100, at::kLong)});
    EXPECT_EQ(retention.update(hidden, targets).total.size(0), rows);
    row += rows;
  }
  const GradientRetentionResult chunks = retention.compute();
  EXPECT_NEAR(chunks.destroyed_ratio, whole.destroyed_ratio, 1e-13);
  EXPECT_NEAR(chunks.step_cosine, whole.step_cosine, 1e-13);
  EXPECT_EQ(chunks.tokens, 45);
  retention.reset();
  EXPECT_THROW(retention.compute(), Error);
}

TEST(GradientRetention, GivesEachTokensEnergies) {
  const oracle::Problem problem = oracle::problem(20, 8, 50);
  const TokenEnergies energies = GradientRetention(problem.map).update(problem.hidden, problem.targets);
  const at::Tensor gradient = oracle::logit_gradient(problem), basis = oracle::basis(problem.map.weight);
  const auto difference = [](const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); };
  EXPECT_LT(difference(energies.total, gradient.square().sum(1)), 1e-12);
  EXPECT_LT(difference(energies.retained, at::matmul(gradient, basis).square().sum(1)), 1e-12);
  EXPECT_LT(difference(energies.gradient_square, at::matmul(gradient, problem.map.weight).square().sum(1)), 1e-11);
}

TEST(GradientRetention, NarrowTypesAgreeWithFloat64OfTheSameValues) {
  const oracle::Problem exact = oracle::problem(60, 16, 300);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    oracle::Problem narrow = exact, wide = exact;
    narrow.hidden = exact.hidden.to(type);
    narrow.map.weight = exact.map.weight.to(type);
    wide.hidden = narrow.hidden.to(at::kDouble);
    wide.map.weight = narrow.map.weight.to(at::kDouble);
    EXPECT_NEAR(measure(narrow).retained_energy, measure(wide).retained_energy, 2e-7);
    EXPECT_NEAR(measure(narrow).step_cosine, measure(wide).step_cosine, 2e-7);
  }
}

TEST(GradientRetention, MeasuresEvenlySpacedTokensOnRequest) {
  const oracle::Problem problem = oracle::problem(30, 8, 50);
  const auto result =
      measure_gradient_retention(problem.map, problem.hidden, problem.targets, {.tokens = 4, .head_space = {}});
  const at::Tensor rows = at::arange(4, at::kLong) * 30 / 4;
  GradientRetention retention(problem.map);
  retention.update(problem.hidden.index_select(0, rows.to(at::kLong)),
                   problem.targets.index_select(0, rows.to(at::kLong)));
  EXPECT_EQ(result.tokens, 4);
  EXPECT_EQ(result.retained_energy, retention.compute().retained_energy);
}

TEST(GradientRetention, TakesTheStatisticsOfATrainingPass) {
  const oracle::Problem problem = oracle::problem(30, 8, 50);
  const TokenStatistics statistics = token_statistics(problem.hidden, problem.map, problem.targets);
  for (const std::int64_t tokens : {0, 4}) {
    const GradientRetentionOptions options{.tokens = tokens, .head_space = {}};
    const auto passed = measure_gradient_retention(problem.map, problem.hidden, problem.targets, options, &statistics);
    const auto own = measure_gradient_retention(problem.map, problem.hidden, problem.targets, options);
    EXPECT_EQ(passed.tokens, own.tokens);
    EXPECT_NEAR(passed.destroyed_ratio, own.destroyed_ratio, 1e-12);
    EXPECT_NEAR(passed.step_cosine, own.step_cosine, 1e-12);
  }
}

TEST(GradientRetention, TakesATrainingPassInBfloat16) {
  for (const double scale : {1.0, 6.0}) {
    SCOPED_TRACE(scale);
    oracle::Problem problem = oracle::problem(512, 32, 2000);  // enough rows for packed products
    problem.hidden = (problem.hidden * scale).to(at::kBFloat16);
    problem.map.weight = problem.map.weight.to(at::kBFloat16);
    const auto pass =
        linear_cross_entropy_with_statistics(problem.hidden.detach().requires_grad_(), problem.map, problem.targets);
    const auto passed = measure_gradient_retention(problem.map, problem.hidden, problem.targets, {}, &pass.statistics);
    problem.hidden = problem.hidden.to(at::kDouble);
    problem.map.weight = problem.map.weight.to(at::kDouble);  // the same numbers
    const at::Tensor gradient = oracle::logit_gradient(problem);
    const double visible = std::sqrt(oracle::retained_energy(gradient, oracle::basis(problem.map.weight)));
    const double largest_logit = at::matmul(problem.hidden, problem.map.weight.t()).abs().max().item<double>();
    EXPECT_LE(std::abs(passed.visible_cosine - visible), (1 + largest_logit) / 512);
    EXPECT_NEAR(passed.visible_cosine, visible, 1e-3 * visible);  // over 512 tokens roundings cancel
    EXPECT_NEAR(passed.step_cosine, oracle::step_cosine(gradient, problem.map.weight), 1e-3);
    EXPECT_NE(passed.visible_cosine, visible);
  }
}

TEST(GradientRetention, DistrustsATrainingPassThroughAnIllConditionedHead) {
  oracle::Problem problem = oracle::problem(30, 8, 50);
  problem.map.weight = with_singular_values(at::logspace(0, -5, 8, 10, at::kDouble), 50).to(at::kFloat);
  problem.hidden = problem.hidden.to(at::kFloat);
  TokenStatistics wrong = token_statistics(problem.hidden, problem.map, problem.targets);
  wrong.hidden_gradient = wrong.hidden_gradient * 2;  // would show if it were used
  const auto passed = measure_gradient_retention(problem.map, problem.hidden, problem.targets, {}, &wrong);
  EXPECT_EQ(passed.destroyed_ratio, measure(problem).destroyed_ratio);
}

TEST(GradientRetention, RefusesWhatItCannotMeasure) {
  const oracle::Problem problem = oracle::problem(3, 4, 9);
  GradientRetention retention(problem.map);
  const auto error_of = [&](const at::Tensor& hidden, const at::Tensor& targets) -> std::string {
    try {
      retention.update(hidden, targets);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  at::Tensor wrong = problem.targets.clone();
  wrong[1] = 9;
  EXPECT_EQ(error_of(problem.hidden, wrong),
            "[gradient_retention] targets must be -100 or lie in [0, 9), got 9 in row 1");
  EXPECT_NE(error_of(problem.hidden.narrow(1, 0, 3), problem.targets), "no error");
  EXPECT_NE(error_of(problem.hidden, problem.targets.to(at::kInt)), "no error");
  EXPECT_NE(error_of(at::full_like(problem.hidden, NAN), problem.targets), "no error");
  EXPECT_THROW(GradientRetention({.weight = at::full_like(problem.map.weight, NAN), .bias = {}}), Error);
  EXPECT_THROW(GradientRetention({.weight = at::zeros({0, 4}), .bias = {}}), Error);
  EXPECT_THROW(retention.compute(), Error);
}

TEST(GradientRetention, JsonHasTheKeysOfTheGlossary) {
  std::vector<std::string> keys;
  const Json json = to_json(measure(oracle::problem(3, 4, 9)));
  for (const auto& item : json.items()) keys.push_back(item.key());
  EXPECT_EQ(keys,
            (std::vector<std::string>{"destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "retained_energy",
                                      "visible_cosine", "step_cosine", "head_rank", "head_condition", "tokens"}));
}

}  // namespace
}  // namespace lmhead
