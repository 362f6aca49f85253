#include "lmhead/diagnose/gradient_sketch.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_svdvals.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

constexpr std::int64_t kTokens = 300, kHidden = 6, kVocab = 130, kBatch = 70;

/// Measures in batches; more than `exact_tokens` tokens are sketched.
Json measure(const oracle::Problem& problem, std::int64_t exact_tokens, std::int64_t columns,
             const at::Tensor& documents = {}, at::ScalarType type = at::kDouble) {
  DiagnosticOptions options;
  options.gradient_spectrum = {.tokens = 1 << 20, .exact_tokens = exact_tokens, .sketch_columns = columns};
  LinearMap map = problem.map;
  map.weight = map.weight.to(type);
  DiagnosticSet set(map, {"gradient_spectrum"}, options);
  for (std::int64_t row = 0; row < problem.targets.size(0); row += kBatch) {
    const std::int64_t rows = std::min(kBatch, problem.targets.size(0) - row);
    set.update({problem.hidden.narrow(0, row, rows).to(type),
                problem.targets.narrow(0, row, rows),
                documents.defined() ? documents.narrow(0, row, rows) : at::Tensor(),
                {},
                {}});
  }
  return set.result()["gradient_spectrum"];
}

/// Features of unequal scale give a spectrum that falls as real ones do.
oracle::Problem falling_problem() {
  oracle::Problem problem = oracle::problem(kTokens, kHidden, kVocab);
  problem.hidden = problem.hidden * at::arange(1, kHidden + 1, at::kDouble).reciprocal() * 6;
  return problem;
}

void expect_between(const Json& bounds, double exact, double tolerance, const std::string& name) {
  EXPECT_LE(bounds[0].get<double>(), exact + tolerance) << name;
  EXPECT_GE(bounds[1].get<double>(), exact - tolerance) << name;
}

TEST(GradientSketch, BoundsBracketTheExactFigures) {
  const oracle::Problem problem = falling_problem();
  const Json exact = measure(problem, kTokens, 1);
  ASSERT_EQ(exact["method"], "exact");
  for (const auto& [type, tolerance] : {std::pair{at::kDouble, 1e-10}, {at::kFloat, 2e-6}})
    for (const std::int64_t columns : {1, 5, 20, 64, 110}) {
      const Json sketched = measure(problem, 40, columns, {}, type);
      ASSERT_EQ(sketched["method"], "randomized");
      EXPECT_EQ(sketched["sketch_columns"], columns);
      EXPECT_EQ(sketched["tokens"], kTokens);
      const Json& bounds = sketched["bounds"];
      for (const char* key :
           {"best_retained_energy", "residual_energy_rank_d", "residual_energy_rank_2d", "avoidable_energy"}) {
        expect_between(bounds[key], exact[key].get<double>(), tolerance, key);
        EXPECT_LE(bounds[key][1].get<double>() - bounds[key][0].get<double>(),
                  sketched["unresolved_energy"].get<double>() + tolerance);
      }
      for (const char* key : {"components_for_norm", "components_for_energy"})
        for (const char* share : {"0.5", "0.7", "0.9", "0.99", "0.999"}) {
          EXPECT_LE(bounds[key][share][0], exact[key][share]) << key << share << " " << columns;
          EXPECT_GE(bounds[key][share][1], exact[key][share]) << key << share << " " << columns;
        }
      EXPECT_NEAR(sketched["retained_energy"].get<double>(), exact["retained_energy"].get<double>(), tolerance);
      EXPECT_TRUE(sketched["effective_rank"].is_null());
    }
}

TEST(GradientSketch, MoreColumnsLeaveLessOpen) {
  const oracle::Problem problem = falling_problem();
  double before = 1;
  for (const std::int64_t columns : {2, 10, 50, 100}) {
    const double open = measure(problem, 40, columns)["unresolved_energy"].get<double>();
    EXPECT_LT(open, before);
    before = open;
  }
  EXPECT_LT(before, 0.15);  // 100 of 129 directions that know nothing of G would leave 22 %
}

TEST(GradientSketch, IsExactWhereItsColumnsReachTheRank) {
  const oracle::Problem problem = falling_problem();
  const Json exact = measure(problem, kTokens, 1), sketched = measure(problem, 40, kVocab);
  for (const char* key : {"best_retained_energy", "residual_energy_rank_2d", "avoidable_energy"})
    EXPECT_NEAR(sketched[key].get<double>(), exact[key].get<double>(), 1e-8) << key;
  EXPECT_LT(sketched["unresolved_energy"].get<double>(), 1e-8);
  EXPECT_EQ(sketched["components_for_norm"], exact["components_for_norm"]);
  EXPECT_EQ(sketched["components_for_energy"], exact["components_for_energy"]);
}

/// Energy of the rows `other` in the best directions of the rows `own`, materialised.
double cross_energy(const at::Tensor& own, const at::Tensor& other) {
  const auto [values, vectors] = at::linalg_eigh(at::matmul(own.t(), own));
  return at::matmul(other, vectors.narrow(1, kVocab - kHidden, kHidden)).square().sum().item<double>();
}

TEST(GradientSketch, CrossValidatesOnTheOtherDocuments) {
  const oracle::Problem problem = falling_problem();
  const at::Tensor documents = at::arange(kTokens, at::kLong).floor_divide(13) * 5, side = documents / 5 % 2;
  const at::Tensor gradient = oracle::logit_gradient(problem);
  const at::Tensor first = gradient.index_select(0, side.eq(0).nonzero().squeeze(1));
  const at::Tensor second = gradient.index_select(0, side.eq(1).nonzero().squeeze(1));
  const double best =
      (cross_energy(first, second) + cross_energy(second, first)) / gradient.square().sum().item<double>();
  const Json whole = measure(problem, 40, kVocab, documents);
  EXPECT_NEAR(whole["cross_validated_best_retained_energy"].get<double>(), best, 1e-8);
  EXPECT_EQ(whole["cross_validated_dimension"], kHidden);
  const Json exact = measure(problem, kTokens, 1, documents);
  EXPECT_NEAR(exact["cross_validated_best_retained_energy"].get<double>(), best, 1e-8);
  // Half the columns find other spaces, nearly as good; what they hold is bounded from both sides.
  const Json part = measure(problem, 40, 64, documents);
  const Json& bounds = part["bounds"]["cross_validated_best_retained_energy"];
  EXPECT_NEAR(bounds[0].get<double>(), best, 0.05);
  EXPECT_GT(bounds[1].get<double>(), best);
}

TEST(GradientSketch, IsTheSameEachTimeAndHardlyKnowsItsBatches) {
  const oracle::Problem problem = falling_problem();
  EXPECT_EQ(measure(problem, 40, 20), measure(problem, 40, 20));
  const double late = measure(problem, 250, 20)["best_retained_energy"].get<double>();
  EXPECT_NEAR(measure(problem, 1, 20)["best_retained_energy"].get<double>(), late, 1e-10);
}

TEST(GradientSketch, TilesOfTheVocabularyFitTogether) {
  const oracle::Problem problem = oracle::problem(90, 3, 4100);                     // three tiles
  const Json exact = measure(problem, 90, 1), sketched = measure(problem, 20, 90);  // as many columns as tokens
  EXPECT_NEAR(sketched["best_retained_energy"].get<double>(), exact["best_retained_energy"].get<double>(), 1e-8);
  EXPECT_LT(sketched["unresolved_energy"].get<double>(), 1e-8);
}

TEST(GradientSketch, TokensWithoutGradientGiveNulls) {
  oracle::Problem problem = oracle::problem(50, 20, 20);
  problem.map.weight = at::eye(20, at::kDouble);
  problem.hidden = problem.map.weight.index_select(0, problem.targets) * 1e4;  // every p is exactly 0 or 1
  const Json sketched = measure(problem, 10, 8);
  for (const char* key : {"retained_energy", "best_retained_energy", "cross_validated_best_retained_energy"})
    EXPECT_TRUE(sketched[key].is_null()) << key;
  EXPECT_TRUE(sketched["components_for_norm"]["0.5"].is_null());
}

TEST(GradientSketch, ColumnsComeFromItsMemory) {
  const oracle::Problem problem = oracle::problem(30, 4, 4000);
  DiagnosticOptions options;
  options.gradient_spectrum = {.tokens = 30, .exact_tokens = 10, .sketch_gib = 100 * 2 * 4000 * 8.0 / (1 << 30)};
  DiagnosticSet set(problem.map, {"gradient_spectrum"}, options);
  set.update({problem.hidden, problem.targets, {}, {}, {}});
  EXPECT_EQ(set.result()["gradient_spectrum"]["sketch_columns"], 100);
}

}  // namespace
}  // namespace lmhead
