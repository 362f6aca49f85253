// Rules on dL/dW against a singular value decomposition, penalties against central differences in float64.
#include "lmhead/heads/weight_gradient_rule.h"

#include <ATen/ops/linalg_svd.h>

#include <cmath>
#include <functional>

#include "lmhead/heads/head_gradient.h"
#include "tests/heads/gradient_fixtures.h"

namespace lmhead {
namespace {

/// Compares `gradient` with central differences of `function` along random directions, and along one entry.
void expect_central_differences(const at::Tensor& at, const at::Tensor& gradient,
                                const std::function<double(const at::Tensor&)>& function) {
  constexpr double kStep = 1e-6;
  for (int probe = 0; probe < 8; ++probe) {
    at::Tensor direction = normal(at.sizes(), "direction" + std::to_string(probe));
    if (probe >= 6) {
      direction.zero_();
      direction.view({-1})[7 * probe % at.numel()] = 1.0;
    }
    const double want = (function(at + kStep * direction) - function(at - kStep * direction)) / (2 * kStep);
    EXPECT_NEAR((gradient * direction).sum().item<double>(), want, 1e-7 * (1 + std::abs(want)));
  }
}

TEST(WeightGradientRule, ParallelPartIsTheProjectionOnTheColumnsOfW) {
  const at::Tensor narrow = normal({9000, 3}, "narrow"), low = normal({30, 2}, "left").matmul(normal({2, 6}, "right"));
  for (const at::Tensor& weight : {normal({23, 6}, "weight"), normal({4, 7}, "wide"), narrow, low}) {
    const at::Tensor gradient = normal(weight.sizes(), "gradient");
    const auto [u, s, v] = at::linalg_svd(weight, false);
    const std::int64_t rank = s.gt(1e-9 * s[0]).sum().item<std::int64_t>();
    const at::Tensor basis = u.narrow(1, 0, rank), want = basis.matmul(basis.t().matmul(gradient));
    const at::Tensor parallel = project_on_columns(weight, gradient);
    EXPECT_LE(largest_of(parallel - want), 1e-9 * largest_of(gradient));
    EXPECT_LE(largest_of(weight.t().matmul(gradient - parallel)), 1e-8 * largest_of(weight.t().matmul(gradient)));
    const at::Tensor single = project_on_columns(weight.to(at::kFloat), gradient.to(at::kFloat));
    EXPECT_EQ(single.scalar_type(), at::kFloat);
  }
}

TEST(WeightGradientRule, OrthogonalityPenaltyIsItsFormulaAndItsGradient) {
  const at::Tensor weight = normal({17, 5}, "weight");
  const auto formula = [](const at::Tensor& w) {
    const at::Tensor gram = w.t().matmul(w);
    const double mean = gram.trace().item<double>() / 5;
    return (gram / mean - at::eye(5, at::kDouble)).square().sum().item<double>() / 5;
  };
  const Penalty penalty = orthogonality_penalty(weight);
  EXPECT_NEAR(penalty.value, formula(weight), 1e-12);
  expect_central_differences(weight, penalty.gradient, formula);
  const at::Tensor orthogonal = std::get<0>(at::linalg_svd(weight, false)) * 3;
  EXPECT_NEAR(orthogonality_penalty(orthogonal).value, 0, 1e-12);
  EXPECT_EQ(largest_of(orthogonality_penalty(at::zeros_like(weight)).gradient), 0);
}

TEST(WeightGradientRule, AlignmentPenaltyIsItsFormulaAndItsGradientWithTheLogitGradientsHeld) {
  for (const double cap : {0.0, 1.5}) {
    GradientBench bench({12, 17, 5});
    bench.pass.map = LinearMap{bench.weight64, normal({17}, "bias"), 0.8, cap};
    bench.pass.loss = {.z_loss = 0.01, .label_smoothing = 0.1};
    at::Tensor held;  // d_t
    for_each_logit_block(bench.pass, [&](std::int64_t first, const at::Tensor& logits) {
      held = logit_gradient(bench.pass, first, logits).clone();
    });
    const auto formula = [&](const at::Tensor& w) {
      const at::Tensor step = held.matmul(w).matmul(w.t());  // of the logits, where the features take g_t
      return 1 - (step * held).sum().item<double>() / (step.norm() * held.norm()).item<double>();
    };
    const Penalty penalty = alignment_penalty(bench.pass);
    EXPECT_NEAR(penalty.value, formula(bench.weight64), 1e-12);
    expect_central_differences(bench.weight64, penalty.gradient, formula);
  }
  GradientBench bench;
  bench.weight.zero_();
  EXPECT_EQ(largest_of(alignment_penalty(bench.pass).gradient), 0);
}

TEST(GradientComparison, MatchesTheNormAndTellsAngleAndSize) {
  const at::Tensor exact = normal({30, 4}, "exact").to(at::kFloat),
                   changed = normal({30, 4}, "changed").to(at::kFloat) * 7;
  GradientComparison comparison;
  const double factor = comparison.add(exact, changed, true);
  EXPECT_NEAR((changed * factor).norm().item<double>(), exact.norm().item<double>(), 1e-4);
  EXPECT_EQ(comparison.add(exact, changed, false), 1);
  EXPECT_EQ(comparison.add(exact, exact * 0, true), 1);
  GradientComparison alone;
  alone.add(exact, changed, true);
  const double cosine = (exact * changed).sum().item<double>() / (exact.norm() * changed.norm()).item<double>();
  EXPECT_NEAR(alone.figures()["cosine"].get<double>(), cosine, 1e-6);
  EXPECT_NEAR(alone.figures()["norm_ratio"].get<double>(), (changed.norm() / exact.norm()).item<double>(), 1e-5);
  EXPECT_TRUE(GradientComparison().figures()["cosine"].is_null());
}

}  // namespace
}  // namespace lmhead
