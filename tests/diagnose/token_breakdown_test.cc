#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

constexpr std::int64_t kTokens = 200, kHidden = 6, kVocab = 40;

/// The definitions, token by token.
struct Oracle {
  oracle::Problem problem = oracle::problem(kTokens, kHidden, kVocab);
  at::Tensor gradient = oracle::logit_gradient(problem);
  at::Tensor total = gradient.square().sum(1);
  at::Tensor retained = at::matmul(gradient, oracle::basis(problem.map.weight)).square().sum(1);
  at::Tensor probability = at::Tensor(gradient.gather(1, problem.targets.unsqueeze(1)).squeeze(1)) + 1;
  at::Tensor documents = oracle::random_ids("documents", kTokens, 12);
  at::Tensor positions = oracle::random_ids("positions", kTokens, 9);

  Json measured(const at::Tensor& counts = {}) const {
    DiagnosticSet set(problem.map, {"token_breakdown"}, {}, counts);
    set.update({problem.hidden, problem.targets, documents, positions, {}});
    return set.result()["token_breakdown"];
  }
  void expect_group(const Json& group, const at::Tensor& inside) const {
    const at::Tensor rows = inside.nonzero().squeeze(1);
    const auto sum = [&](const at::Tensor& values) { return values.index_select(0, rows).sum().item<double>(); };
    ASSERT_EQ(group["tokens"].get<std::int64_t>(), rows.size(0)) << group;
    EXPECT_NEAR(group["energy_share"].get<double>(), sum(total) / total.sum().item<double>(), 1e-12);
    EXPECT_NEAR(group["retained_energy"].get<double>(), sum(retained) / sum(total), 1e-11);
    EXPECT_NEAR(group["loss"].get<double>(), -sum(probability.log()) / double(rows.size(0)), 1e-11);
  }
};

TEST(TokenBreakdown, SplitsByPositionInPowersOfTwo) {
  const Oracle oracle;
  const Json groups = oracle.measured()["by_position"];
  ASSERT_EQ(groups.size(), 5);
  const std::vector<std::tuple<std::string, std::int64_t, std::int64_t>> ranges = {
      {"0", 0, 0}, {"1", 1, 1}, {"2-3", 2, 3}, {"4-7", 4, 7}, {"8-15", 8, 15}};
  for (std::size_t index = 0; index < ranges.size(); ++index) {
    const auto& [name, low, high] = ranges[index];
    EXPECT_EQ(groups[index]["group"], name);
    oracle.expect_group(groups[index], oracle.positions.ge(low).logical_and(oracle.positions.le(high)));
  }
}

TEST(TokenBreakdown, SplitsByTheProbabilityOfTheTarget) {
  const Oracle oracle;
  const std::vector<double> edges = {0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 2};
  const Json groups = oracle.measured()["by_probability"];
  std::size_t index = 0;
  for (std::size_t edge = 0; edge + 1 < edges.size(); ++edge) {
    const at::Tensor inside = oracle.probability.ge(edges[edge]).logical_and(oracle.probability.lt(edges[edge + 1]));
    if (inside.any().item<bool>()) oracle.expect_group(groups.at(index++), inside);
  }
  EXPECT_EQ(groups.size(), index);
  EXPECT_GE(index, 3);
}

TEST(TokenBreakdown, SplitsByFrequencyOfMeasuredOrGivenCounts) {
  const Oracle oracle;
  EXPECT_EQ(oracle.measured()["by_frequency"][0]["group"], "rank 1-10");
  // Reference counts that fall with the id, and do not know the last ten ids.
  const at::Tensor counts = (30 - at::arange(kVocab, at::kLong)).clamp_min(0);
  const Json groups = oracle.measured(counts)["by_frequency"];
  ASSERT_EQ(groups.size(), 3);
  oracle.expect_group(groups[0], oracle.problem.targets.lt(10));
  oracle.expect_group(groups[1], oracle.problem.targets.ge(10).logical_and(oracle.problem.targets.lt(30)));
  EXPECT_EQ(groups[2]["group"], "never seen");
  oracle.expect_group(groups[2], oracle.problem.targets.ge(30));
}

TEST(TokenBreakdown, TheMeanCountsEveryTokenOnce) {
  const Oracle oracle;
  EXPECT_NEAR(oracle.measured()["mean"].get<double>(), (oracle.retained / oracle.total).mean().item<double>(), 1e-11);
}

TEST(TokenBreakdown, QuantilesAreThoseOfTheTokens) {
  const Oracle oracle;
  const Json quantiles = oracle.measured()["quantiles"];
  const at::Tensor sorted = std::get<0>((oracle.retained / oracle.total).sort());
  for (const auto& [name, share] : {std::pair{"0.01", 0.01}, {"0.25", 0.25}, {"0.5", 0.5}, {"0.99", 0.99}}) {
    const double expected = sorted[std::int64_t(std::ceil(share * kTokens)) - 1].item<double>();
    EXPECT_NEAR(quantiles[name].get<double>(), expected, 1.0 / (1 << 14)) << name;
  }
}

TEST(TokenBreakdown, StandardErrorsAgreeWithLeavingOutEachDocument) {
  const Oracle oracle;
  const Json errors = oracle.measured()["standard_error"];
  ASSERT_EQ(errors["documents"], 12);
  double sum = 0, square = 0;
  for (std::int64_t document = 0; document < 12; ++document) {
    const at::Tensor rows = oracle.documents.ne(document).nonzero().squeeze(1);
    const double left_out =
        (oracle.retained.index_select(0, rows).sum() / oracle.total.index_select(0, rows).sum()).item<double>();
    sum += left_out;
    square += left_out * left_out;
  }
  const double jackknife = std::sqrt(11 * (square / 12 - sum * sum / 144));
  const double error = errors["retained_energy"].get<double>();
  EXPECT_NEAR(error, jackknife, 0.05 * jackknife);
  const double energy = (oracle.retained.sum() / oracle.total.sum()).item<double>();
  EXPECT_NEAR(errors["destroyed_ratio"].get<double>(), error / (2 * std::sqrt(1 - energy)), 1e-12);
}

TEST(TokenBreakdown, WhatIsNotKnownIsNull) {
  const Oracle oracle;
  DiagnosticSet set(oracle.problem.map, {"token_breakdown"});
  set.update({oracle.problem.hidden, oracle.problem.targets, {}, {}, {}});
  const Json result = set.result()["token_breakdown"];
  EXPECT_TRUE(result["by_position"].is_null());
  EXPECT_TRUE(result["standard_error"].is_null());
}

}  // namespace
}  // namespace lmhead
