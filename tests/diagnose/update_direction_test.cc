#include <ATen/ops/cross_entropy_loss.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"
#include "lmhead/kernels/plain_logits.h"
#include "tests/diagnose/oracle.h"

namespace lmhead {
namespace {

Json measure(const oracle::Problem& problem, const std::vector<double>& step_sizes) {
  DiagnosticOptions options;
  options.update_direction.step_sizes = step_sizes;
  DiagnosticSet set(problem.map, {"update_direction"}, options);
  set.update({problem.hidden, problem.targets, {}, {}, {}});
  return set.result()["update_direction"];
}

void expect_definitions(const oracle::Problem& problem) {
  const std::vector<double> sizes = {0.01, 0.5, 20};
  const Json result = measure(problem, sizes);
  const at::Tensor gradient = oracle::logit_gradient(problem), basis = oracle::basis(problem.map.weight);
  const at::Tensor& weight = problem.map.weight;
  at::Tensor product = at::matmul(problem.hidden, weight.t());
  if (problem.map.bias.defined()) product = product + problem.map.bias;
  const double length = std::sqrt(double(product.size(0)));
  const std::vector<std::pair<const char*, at::Tensor>> directions = {
      {"gradient", gradient},
      {"backpropagation", at::matmul(at::matmul(gradient, weight), weight.t())},
      {"projection", at::matmul(at::matmul(gradient, basis), basis.t())}};
  for (const auto& [name, direction] : directions)
    for (std::size_t index = 0; index < sizes.size(); ++index) {
      const at::Tensor moved = product - direction * (sizes[index] * length / direction.norm().item<double>());
      const double loss =
          plain_cross_entropy(logits_of_product(moved, problem.map.transform), problem.targets).item<double>();
      EXPECT_NEAR(result["loss_after"][name][index].get<double>(), loss, 1e-10) << name << ' ' << sizes[index];
    }
  EXPECT_NEAR(result["loss"].get<double>(),
              plain_linear_cross_entropy(problem.hidden, problem.map, problem.targets).item<double>(), 1e-11);
  EXPECT_NEAR(result["step_cosine"].get<double>(), oracle::step_cosine(gradient, weight), 1e-11);
  EXPECT_NEAR(result["visible_cosine"].get<double>(), std::sqrt(oracle::retained_energy(gradient, basis)), 1e-11);
}

TEST(UpdateDirection, EqualsTheDefinitions) {
  oracle::Problem problem = oracle::problem(40, 6, 70);
  expect_definitions(problem);
  problem.map.weight = at::matmul(oracle::normal("tall", {70, 3}), oracle::normal("wide", {3, 6})) / 3;
  problem.map.bias = oracle::normal("bias", {70});
  problem.map.transform.scale = 0.8;
  problem.map.transform.softcap = 4;
  expect_definitions(problem);
  expect_definitions(oracle::problem(1100, 4, 30));  // two blocks of rows
}

TEST(UpdateDirection, SmallStepsGainAsTheirCosinesSay) {
  // To first order the loss falls by size * ||G|| sqrt(N) * cosine, whatever the direction.
  const oracle::Problem problem = oracle::problem(40, 6, 70);
  const Json result = measure(problem, {1e-5});
  const auto gain = [&](const char* name) {
    return result["loss"].get<double>() - result["loss_after"][name][0].get<double>();
  };
  EXPECT_NEAR(gain("backpropagation") / gain("gradient"), result["step_cosine"].get<double>(), 1e-4);
  EXPECT_NEAR(gain("projection") / gain("gradient"), result["visible_cosine"].get<double>(), 1e-4);
}

TEST(UpdateDirection, AZeroHeadMovesNothing) {
  oracle::Problem problem = oracle::problem(10, 3, 9);
  problem.map.weight.zero_();
  const Json result = measure(problem, {1});
  EXPECT_NEAR(result["loss_after"]["backpropagation"][0].get<double>(), std::log(9), 1e-12);
  EXPECT_LT(result["loss_after"]["gradient"][0].get<double>(), 2);
  EXPECT_EQ(result["step_cosine"], 0.0);
}

}  // namespace
}  // namespace lmhead
