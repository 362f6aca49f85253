#include <ATen/ops/arange.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_svdvals.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

Json measure(const oracle::Problem& problem, const at::Tensor& documents = {}, std::int64_t tokens = 4096) {
  DiagnosticOptions options;
  options.gradient_spectrum.tokens = tokens;
  DiagnosticSet set(problem.map, {"gradient_spectrum"}, options);
  set.update({problem.hidden, problem.targets, documents, {}, {}});
  return set.result()["gradient_spectrum"];
}

TEST(GradientSpectrum, EqualsTheSingularValuesOfTheMaterialisedGradient) {
  oracle::Problem problem = oracle::problem(70, 5, 8300);  // two tiles of the vocabulary
  for (const bool softcapped : {false, true}) {
    if (softcapped) problem.map.transform.softcap = 2;
    const at::Tensor gradient = oracle::logit_gradient(problem), values = at::linalg_svdvals(gradient);
    const at::Tensor energy = values.square() / values.square().sum();
    const Json result = measure(problem);
    const auto best = [&](std::int64_t rank) { return energy.narrow(0, 0, rank).sum().item<double>(); };
    EXPECT_NEAR(result["best_retained_energy"].get<double>(), best(5), 1e-11);
    EXPECT_NEAR(result["residual_energy_rank_d"].get<double>(), 1 - best(5), 1e-11);
    EXPECT_NEAR(result["residual_energy_rank_2d"].get<double>(), 1 - best(10), 1e-11);
    const double retained = oracle::retained_energy(gradient, oracle::basis(problem.map.weight));
    EXPECT_NEAR(result["avoidable_energy"].get<double>(), best(5) - retained, 1e-11);
    for (const auto& [name, share] :
         {std::pair{"0.5", 0.5}, {"0.7", 0.7}, {"0.9", 0.9}, {"0.99", 0.99}, {"0.999", 0.999}}) {
      const std::int64_t of_norm = result["components_for_norm"][name],
                         of_energy = result["components_for_energy"][name];
      EXPECT_GE(std::sqrt(best(of_norm)), share);
      EXPECT_LT(std::sqrt(of_norm > 1 ? best(of_norm - 1) : 0), share);
      EXPECT_GE(best(of_energy), share);
      EXPECT_LT(of_energy > 1 ? best(of_energy - 1) : 0, share);
    }
    const at::Tensor shares = values / values.sum();
    EXPECT_NEAR(result["effective_rank"].get<double>(), std::exp(-(shares * shares.log()).sum().item<double>()), 1e-9);
  }
}

TEST(GradientSpectrum, RowsBeyondABlockChangeNothing) {
  for (const std::int64_t vocab_size : {24, 600}) {  // fewer words than tokens, and more
    const oracle::Problem problem = oracle::problem(520, 3, vocab_size);
    const at::Tensor energy = at::linalg_svdvals(oracle::logit_gradient(problem)).square();
    const Json result = measure(problem);
    EXPECT_NEAR(result["residual_energy_rank_2d"].get<double>(),
                (energy.narrow(0, 6, energy.size(0) - 6).sum() / energy.sum()).item<double>(), 1e-11);
  }
}

/// Energy of `other` in the best five directions of `own`, materialised.
double cross_energy(const at::Tensor& own, const at::Tensor& other) {
  const auto [left, values, right] = at::linalg_svd(own, false);
  return at::matmul(other, right.narrow(0, 0, 5).t()).square().sum().item<double>();
}

TEST(GradientSpectrum, CrossValidatesOnTheOtherDocuments) {
  const at::Tensor documents = at::arange(60, at::kLong).floor_divide(7) * 3;
  const at::Tensor side = documents / 3 % 2;
  for (const auto& [vocab_size, by_document] :
       {std::pair{80, true}, {80, false}, {40, true}, {40, false}}) {  // more words than tokens, and fewer
    const oracle::Problem problem = oracle::problem(60, 5, vocab_size);
    const at::Tensor gradient = oracle::logit_gradient(problem);
    const at::Tensor half = by_document ? side : at::arange(60, at::kLong).ge(30).to(at::kLong);
    const at::Tensor first = gradient.index_select(0, half.eq(0).nonzero().squeeze(1));
    const at::Tensor second = gradient.index_select(0, half.eq(1).nonzero().squeeze(1));
    const double best =
        (cross_energy(first, second) + cross_energy(second, first)) / gradient.square().sum().item<double>();
    const Json result = measure(problem, by_document ? documents : at::Tensor());
    EXPECT_NEAR(result["cross_validated_best_retained_energy"].get<double>(), best, 1e-10);
    EXPECT_NEAR(result["cross_validated_avoidable_energy"].get<double>(),
                best - result["retained_energy"].get<double>(), 1e-12);
    EXPECT_EQ(result["cross_validated_dimension"], 5);
    EXPECT_LT(best, result["best_retained_energy"].get<double>());
  }
}

TEST(GradientSpectrum, UniformProbabilitiesHaveEqualSingularValues) {
  // Every symbol once under uniform probabilities: V - 1 equal values, so that rank 2D misses (V - 1 - 2D) /
  // (V - 1).
  const std::int64_t vocab_size = 50, hidden_size = 4;
  oracle::Problem problem = oracle::problem(vocab_size, hidden_size, vocab_size);
  problem.hidden.zero_();
  problem.targets = at::arange(vocab_size, at::kLong);
  const Json result = measure(problem);
  EXPECT_NEAR(result["residual_energy_rank_2d"].get<double>(), (49.0 - 8) / 49, 1e-12);
  EXPECT_NEAR(result["effective_rank"].get<double>(), 49, 1e-5);
  EXPECT_EQ(result["components_for_energy"]["0.999"], 49);
}

TEST(GradientSpectrum, NoHeadOfThisWidthRetainsMoreThanTheBest) {
  const oracle::Problem problem = oracle::problem(90, 8, 60);
  const Json result = measure(problem);
  EXPECT_GE(result["avoidable_energy"].get<double>(), 0);
  const Json one = measure(problem, {}, 8);  // no more tokens than dimensions: everything fits
  EXPECT_EQ(one["best_retained_energy"], 1.0);
  EXPECT_EQ(one["tokens"], 8);
}

TEST(GradientSpectrum, OneTokenHasNothingToCrossValidate) {
  const Json result = measure(oracle::problem(1, 3, 9));
  EXPECT_TRUE(result["cross_validated_best_retained_energy"].is_null());
  EXPECT_EQ(result["components_for_norm"]["0.999"], 1);
}

}  // namespace
}  // namespace lmhead
