#include <ATen/ops/arange.h>
#include <ATen/ops/linalg_svdvals.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

Json measure(const oracle::Problem& problem, const at::Tensor& counts = {}) {
  DiagnosticSet set(problem.map, {"head_spectrum"}, {}, counts);
  set.update({problem.hidden, problem.targets, {}, {}, {}});
  return set.result()["head_spectrum"];
}

TEST(HeadSpectrum, EqualsTheDefinitions) {
  oracle::Problem problem = oracle::problem(10, 6, 45);
  problem.map.weight = problem.map.weight + 0.3;
  const at::Tensor& weight = problem.map.weight;
  const Json result = measure(problem);
  const at::Tensor values = at::linalg_svdvals(weight), shares = values / values.sum();
  for (std::int64_t index = 0; index < 6; ++index)
    EXPECT_NEAR(result["singular_values"][index].get<double>(), values[index].item<double>(), 1e-12);
  EXPECT_EQ(result["head_rank"], 6);
  EXPECT_NEAR(result["head_condition"].get<double>(), (values[0] / values[5]).item<double>(), 1e-10);
  EXPECT_NEAR(result["effective_rank"].get<double>(), std::exp(-(shares * shares.log()).sum().item<double>()), 1e-10);
  const at::Tensor common = (weight * 0) + weight.mean(0);
  EXPECT_NEAR(result["mean_row_share"].get<double>(), std::pow((common.norm() / weight.norm()).item<double>(), 2),
              1e-12);
}

TEST(HeadSpectrum, RelatesRowNormsToCounts) {
  oracle::Problem problem = oracle::problem(10, 4, 30);
  const at::Tensor counts = (25 - at::arange(30, at::kLong)).clamp_min(0);
  // Norms that are the logarithm of the count, so that the correlation is one.
  const at::Tensor norms = at::Tensor(counts.clamp_min(1).to(at::kDouble).log()) + 1;
  problem.map.weight = problem.map.weight / problem.map.weight.norm(2, {1}, true) * norms.unsqueeze(1);
  const Json result = measure(problem, counts);
  EXPECT_NEAR(result["norm_log_count_correlation"].get<double>(), 1, 1e-12);
  const Json bands = result["norm_by_frequency"];
  ASSERT_EQ(bands.size(), 3);
  EXPECT_EQ(bands[0]["vocabulary"], 10);
  EXPECT_NEAR(bands[0]["mean_norm"].get<double>(), norms.narrow(0, 0, 10).mean().item<double>(), 1e-12);
  EXPECT_NEAR(bands[1]["smallest_norm"].get<double>(), 1, 1e-12);
  EXPECT_EQ(bands[2]["group"], "never seen");
  EXPECT_EQ(bands[2]["vocabulary"], 5);
}

TEST(HeadSpectrum, AZeroHeadHasNoSpectrum) {
  oracle::Problem problem = oracle::problem(10, 4, 30);
  problem.map.weight.zero_();
  const Json result = measure(problem);
  EXPECT_EQ(result["effective_rank"], 0.0);
  EXPECT_TRUE(result["mean_row_share"].is_null());
}

}  // namespace
}  // namespace lmhead
