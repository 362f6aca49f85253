// Against Jacobians by central differences of every head's formula in float64.
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/diagnostic.h"
#include "tests/diagnose/oracle.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

/// d logits / d h of one row, [V, D].
at::Tensor jacobian(const Bench& bench, std::int64_t row) {
  constexpr double kStep = 1e-5;
  const std::int64_t width = bench.hidden.size(1);
  std::vector<at::Tensor> columns;
  for (std::int64_t index = 0; index < width; ++index) {
    ReferenceInput up = bench.reference_input, down = bench.reference_input;
    up.hidden = up.hidden.clone(), down.hidden = down.hidden.clone();
    up.hidden[row][index] += kStep, down.hidden[row][index] -= kStep;
    columns.push_back((bench.reference(bench.values, up)[row] - bench.reference(bench.values, down)[row]) /
                      (2 * kStep));
  }
  return at::stack(columns, 1);
}

TEST(LocalRetention, IsThatOfTheJacobianOfEveryHead) {
  constexpr Shape kShape = {6, 31, 5};
  int measured = 0;
  for_every_case(kShape, [&](Bench& bench) {
    if (bench.head->linear_map()) return;
    ++measured;
    const std::vector<std::int64_t> rows = {0, 1, 3, 4, 5};  // the third has no target
    double total = 0, retained = 0, gradient_square = 0, step_square = 0;
    std::int64_t rank =
        0;  // below the width for heads that are blind to a direction: the features' length, a narrow tail
    for (const std::int64_t row : rows) {
      const at::Tensor map = jacobian(bench, row);
      at::Tensor gradient = bench.reference()[row].softmax(0);
      gradient[bench.targets[row].item<std::int64_t>()] -= 1;
      const auto [left, singular, right] = at::linalg_svd(map, /*full_matrices=*/false);
      rank = singular.gt(1e-6 * singular[0]).sum().item<std::int64_t>();  // central differences err by less
      const at::Tensor basis = left.narrow(1, 0, rank), passed = map.t().mv(gradient);
      total += gradient.square().sum().item<double>();
      retained += basis.t().mv(gradient).square().sum().item<double>();
      gradient_square += passed.square().sum().item<double>();
      step_square += map.mv(passed).square().sum().item<double>();
    }
    DiagnosticSet set(std::shared_ptr<const LmHead>(std::move(bench.head)), {"local_retention"});
    at::Tensor targets = bench.targets.clone();
    targets[2] = -100;
    set.update({.hidden = bench.hidden, .targets = targets, .pass = bench.input()});
    const Json got = set.result()["local_retention"];
    EXPECT_EQ(got["tokens"], 5);
    EXPECT_EQ(got["mean_rank"], double(rank));
    EXPECT_NEAR(got["retained_energy"].get<double>(), retained / total, 2e-4);
    EXPECT_NEAR(got["null_retained_energy"].get<double>(), double(rank) / 31, 1e-12);
    EXPECT_NEAR(got["destroyed_ratio"].get<double>(), std::sqrt(1 - retained / total), 2e-4);
    EXPECT_NEAR(got["null_destroyed_ratio"].get<double>(), std::sqrt(1 - double(rank) / 31), 1e-12);
    EXPECT_NEAR(got["step_cosine"].get<double>(), gradient_square / std::sqrt(step_square * total), 2e-4);
  });
  EXPECT_GE(measured, 8);
}

TEST(LocalRetention, OfALinearMapIsItsGradientRetention) {
  const oracle::Problem problem = oracle::problem(30, 6, 40);
  DiagnosticSet set(problem.map, {"local_retention", "gradient_retention"});
  set.update({.hidden = problem.hidden, .targets = problem.targets});
  const Json result = set.result();
  for (const char* key :
       {"retained_energy", "destroyed_ratio", "null_destroyed_ratio", "destroyed_excess", "step_cosine"})
    EXPECT_NEAR(result["local_retention"][key].get<double>(), result["gradient_retention"][key].get<double>(), 1e-12)
        << key;
  EXPECT_EQ(result["local_retention"]["mean_rank"], 6.0);
}

TEST(LocalRetention, TakesTheFirstTokensAndBeginsAnew) {
  constexpr Shape kShape = {6, 31, 5};
  Bench bench("copy", {Json::object()}, kShape);
  const auto head = std::shared_ptr<const LmHead>(std::move(bench.head));
  DiagnosticOptions options;
  options.local_retention.tokens = 4;
  DiagnosticSet some(head, {"local_retention"}, options), whole(head, {"local_retention"});
  const auto batch = [&](std::int64_t rows) {
    at::Tensor targets = bench.targets.clone();
    targets.narrow(0, rows, kShape.rows - rows).fill_(-100);
    return TokenBatch{.hidden = bench.hidden, .targets = targets, .pass = bench.input()};
  };
  some.update(batch(6));
  whole.update(batch(4));
  EXPECT_EQ(some.result()["local_retention"], whole.result()["local_retention"]);
  some.reset();
  EXPECT_THROW(some.result(), Error);
  some.update(batch(2));
  EXPECT_EQ(some.result()["local_retention"]["tokens"], 2);
}

}  // namespace
}  // namespace lmhead
