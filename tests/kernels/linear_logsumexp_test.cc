#include "lmhead/kernels/linear_logsumexp.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/kernels/logsumexp_pass.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;
using Tensors = std::vector<at::Tensor>;

struct LogsumexpProblem {
  at::Tensor hidden, weight, bias, temperature;  // float64, the last two may be undefined
  LogitTransform transform;
  at::Tensor of_logsumexp, of_entropy;  // upstream gradients; the latter undefined: no entropy is asked for
};

LogsumexpProblem draw_problem(at::ScalarType type, RandomStream& random) {
  const auto size = static_cast<std::int64_t>(1 + random.below(random.uniform() < 0.2 ? 600 : 40));
  const auto rows = static_cast<std::int64_t>(1 + random.below(random.uniform() < 0.2 ? 9000 : 1200));
  const auto width = static_cast<std::int64_t>(1 + random.below(40));
  const auto rounded = [&](const at::Tensor& tensor) { return tensor.to(type).to(at::kDouble); };
  LogsumexpProblem problem;
  problem.hidden = rounded(normal({size, width}, random));
  problem.weight = rounded(normal({rows, width}, random, 2 / std::sqrt(static_cast<double>(width))));
  if (random.uniform() < 0.4) problem.bias = rounded(normal({rows}, random));
  if (random.uniform() < 0.4) problem.temperature = (normal({size}, random).abs() + 0.5).to(at::kFloat).to(at::kDouble);
  problem.transform = draw_transform(random);
  problem.of_logsumexp = normal({size}, random);
  if (random.uniform() < 0.5) problem.of_entropy = normal({size}, random);
  return problem;
}

/// Logsumexp, entropy where asked for, and the gradients of hidden, weight, bias and temperature.
template <class Function>
Tensors run_problem(const LogsumexpProblem& problem, at::ScalarType type, const Function& function) {
  const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
  const auto leaf = [](const at::Tensor& tensor, at::ScalarType as) {
    return tensor.defined() ? tensor.to(as, false, true).requires_grad_() : tensor;
  };
  const at::Tensor hidden = leaf(problem.hidden, type);
  const LinearMap map{leaf(problem.weight, type), leaf(problem.bias, wide), problem.transform};
  at::Tensor temperature = leaf(problem.temperature, wide);
  if (problem.of_entropy.defined() && temperature.defined()) temperature.requires_grad_(false);
  const LogsumexpAndEntropy results = function(hidden, map, temperature, problem.of_entropy.defined());
  at::Tensor total = (results.logsumexp * problem.of_logsumexp.to(wide)).sum();
  if (problem.of_entropy.defined()) total = total + (results.entropy * problem.of_entropy.to(wide)).sum();
  total.backward();
  return {results.logsumexp,
          results.entropy,
          hidden.grad(),
          map.weight.grad(),
          map.bias.defined() ? map.bias.grad() : at::Tensor(),
          temperature.defined() ? temperature.grad() : at::Tensor()};
}

LogsumexpAndEntropy fast(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& temperature, bool entropy) {
  if (entropy) return linear_logsumexp_and_entropy(hidden, map, temperature);
  return {linear_logsumexp(hidden, map, temperature), {}};
}
LogsumexpAndEntropy plain(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& temperature, bool entropy) {
  LogsumexpAndEntropy results = plain_logsumexp_and_entropy(hidden, map, temperature);
  if (!entropy) results.entropy = at::Tensor();
  return results;
}

void expect_good(const LogsumexpProblem& problem, at::ScalarType type, const std::string& what) {
  const Tensors got = run_problem(problem, type, fast), own = run_problem(problem, type, plain),
                exact = run_problem(problem, at::kDouble, plain);
  // A unit is one of what is summed: logits for the values, products of upstream, probability and slope for the rest.
  const double rows = std::sqrt(static_cast<double>(problem.hidden.size(0)));
  const SigmoidCap& cap = problem.transform.sigmoid_cap;
  const double steepest = cap.height > 0 ? cap.height / (4 * cap.width) : 2;
  const double gradient = 30 * rows * steepest * problem.transform.scale;
  const double hidden = gradient * problem.weight.norm().item<double>() / std::sqrt(problem.weight.size(0));
  const double weight = gradient * std::sqrt(static_cast<double>(problem.hidden.size(1)));
  const double long_sums = type == at::kDouble ? std::max(1.0, std::sqrt(problem.weight.size(0)) / 32.0) : 1;
  const double scales[] = {30 * rows, 30 * rows, hidden * long_sums, weight, gradient, 30 * gradient};
  const char* names[] = {"logsumexp", "entropy", "d_hidden", "d_weight", "d_bias", "d_temperature"};
  for (int index = 0; index < 6; ++index)
    expect_as_good_as_plain(got[index], own[index], exact[index], type, scales[index], what + ": " + names[index]);
}

TEST(LinearLogsumexpProperty, ErrsAtMostTwiceAsMuchAsPlainInEveryType) {
  RandomStream random(1, "logsumexp");
  for (int number = 0; number < 120 && !HasFailure(); ++number) {
    const at::ScalarType types[] = {at::kFloat, at::kDouble, at::kBFloat16};
    const at::ScalarType type = types[random.below(3)];
    expect_good(draw_problem(type, random), type, "draw " + std::to_string(number));
  }
}

TEST(LinearLogsumexp, InChunksAgreesWithPlain) {
  RandomStream random(2, "logsumexp, chunks");
  for (int number = 0; number < 30; ++number) {
    const LogsumexpProblem problem = draw_problem(at::kDouble, random);
    const Tensors exact = run_problem(problem, at::kDouble, plain);
    // float16 goes in chunks; what it computes there in float32 differs by the rounding of products.
    const Tensors half = run_problem(problem, at::kHalf, fast);
    for (int index = 0; index < 6; ++index) {
      ASSERT_EQ(half[index].defined(), exact[index].defined());
      if (!exact[index].defined()) continue;
      const double error = (half[index].to(at::kDouble) - exact[index]).norm().item<double>();
      EXPECT_LT(error, 0.02 * (1 + exact[index].norm().item<double>())) << number << " " << index;
    }
  }
}

TEST(LinearLogsumexp, LessTheTargetsLogitIsCrossEntropy) {
  RandomStream random(3, "logsumexp, cross-entropy");
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16})
    for (int number = 0; number < 12; ++number) {
      const LogitTransform transform = draw_transform(random);
      const at::Tensor hidden = normal({30, 12}, random).to(type), weight = normal({1500, 12}, random).to(type);
      const at::Tensor bias = normal({1500}, random).to(at::kFloat), targets = ids(30, 1500, random);
      const LinearMap map{weight, bias, transform};
      const at::Tensor parts = linear_logsumexp(hidden, map) - target_logits(hidden, map, targets);
      const at::Tensor whole = linear_cross_entropy(hidden, map, targets, {.reduction = Reduction::kNone});
      const double tolerance = type == at::kBFloat16 ? 2e-2 : type == at::kFloat ? 1e-4 : 1e-6;
      EXPECT_TRUE(parts.allclose(whole, tolerance, tolerance)) << type;
    }
}

TEST(LinearLogsumexp, OfBlocksOfTheVocabularyIsThatOfTheirLogsumexps) {
  RandomStream random(4, "logsumexp, blocks");
  const at::Tensor hidden = normal({17, 6}, random), weight = normal({301, 6}, random);
  Tensors blocks;
  for (const auto& [begin, size] : {std::pair{0, 1}, std::pair{1, 200}, std::pair{201, 100}})
    blocks.push_back(linear_logsumexp(hidden, {weight.narrow(0, begin, size), {}}));
  EXPECT_TRUE(at::stack(blocks, 1).logsumexp(1).allclose(linear_logsumexp(hidden, {weight, {}}), 1e-12, 1e-12));
}

TEST(LinearLogsumexp, OfClassesThatCannotBeIsExact) {
  RandomStream random(5, "logsumexp, forbidden");
  const double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor hidden = normal({9, 4}, random).requires_grad_(), weight = normal({50, 4}, random).requires_grad_();
  at::Tensor bias = at::zeros({50}, at::kDouble);
  bias.narrow(0, 10, 40).fill_(-infinity);
  const LogsumexpAndEntropy all = linear_logsumexp_and_entropy(hidden, {weight, bias});
  const LogsumexpAndEntropy few = linear_logsumexp_and_entropy(hidden, {weight.narrow(0, 0, 10), {}});
  const auto gradients = [&](const LogsumexpAndEntropy& of) {
    return torch::autograd::grad({(of.logsumexp * 2 + of.entropy * 3).sum()}, {hidden, weight});
  };
  EXPECT_TRUE(all.logsumexp.allclose(few.logsumexp, 1e-12, 1e-12));
  EXPECT_TRUE(all.entropy.allclose(few.entropy, 1e-12, 1e-12));
  const Tensors of_all = gradients(all), of_few = gradients(few);
  for (int index = 0; index < 2; ++index) EXPECT_TRUE(of_all[index].allclose(of_few[index], 1e-10, 1e-12));
}

TEST(LinearLogsumexp, TheSameThreadCountGivesTheSameBits) {
  RandomStream random(6, "logsumexp, threads");
  for (int number = 0; number < 6; ++number) {
    const LogsumexpProblem problem = draw_problem(at::kFloat, random);
    const Tensors first = run_problem(problem, at::kFloat, fast), second = run_problem(problem, at::kFloat, fast);
    for (int index = 0; index < 6; ++index)
      if (first[index].defined()) {
        EXPECT_TRUE(first[index].equal(second[index]));
      }
  }
}

TEST(LinearLogsumexp, OfNoRowsIsEmpty) {
  const at::Tensor hidden = at::zeros({0, 4}).requires_grad_(), weight = at::ones({9, 4}).requires_grad_();
  const at::Tensor logsumexp = linear_logsumexp(hidden, {weight, {}});
  EXPECT_EQ(logsumexp.numel(), 0);
  logsumexp.sum().backward();
  EXPECT_EQ(weight.grad().abs().sum().item<double>(), 0);
}

TEST(TargetLogits, AreThoseOfTheirRowsForOneTargetAndForSeveral) {
  RandomStream random(7, "target logits");
  for (int number = 0; number < 10; ++number) {
    const LogitTransform transform = draw_transform(random);
    const at::Tensor hidden = normal({8, 5}, random).requires_grad_(),
                     weight = normal({20, 5}, random).requires_grad_();
    const at::Tensor bias = normal({20}, random).requires_grad_(), temperature = normal({8}, random).abs() + 0.5;
    const LinearMap map{weight, bias, transform};
    const at::Tensor targets = at::stack(Tensors{ids(8, 20, random), ids(8, 20, random), ids(8, 20, random)}, 1);
    const at::Tensor logits = wide_linear_logits(hidden, map) / temperature.unsqueeze(1);
    const at::Tensor got = target_logits(hidden, map, targets, temperature), want = logits.gather(1, targets);
    EXPECT_TRUE(got.allclose(want, 1e-12, 1e-12));
    EXPECT_TRUE(
        target_logits(hidden, map, targets.select(1, 0), temperature).allclose(want.select(1, 0), 1e-12, 1e-12));
    const at::Tensor upstream = normal({8, 3}, random);
    const Tensors a = torch::autograd::grad({got}, {hidden, weight, bias}, {upstream}),
                  b = torch::autograd::grad({want}, {hidden, weight, bias}, {upstream});
    for (int index = 0; index < 3; ++index) EXPECT_TRUE(a[index].allclose(b[index], 1e-10, 1e-12));
  }
}

TEST(LinearLogsumexp, NamesWhatDoesNotFit) {
  const at::Tensor hidden = at::ones({3, 4}), weight = at::ones({9, 4}), targets = at::zeros({3}, at::kLong);
  EXPECT_THROW(linear_logsumexp(hidden, {at::ones({9, 5}), {}}), Error);
  EXPECT_THROW(linear_logsumexp(hidden, {weight.to(at::kDouble), {}}), Error);
  EXPECT_THROW(linear_logsumexp(hidden, {weight, at::ones({8})}), Error);
  EXPECT_THROW(linear_logsumexp(hidden, {weight, {}}, at::ones({4})), Error);
  EXPECT_THROW(linear_logsumexp(hidden, {weight, {}, {.softcap = 2, .sigsoftmax = true}}), Error);
  EXPECT_THROW(linear_logsumexp(hidden, {weight, {}, {.sigmoid_cap = {1, 0, -1}}}), Error);
  EXPECT_THROW(target_logits(hidden, {weight, {}}, targets + 9), Error);
  EXPECT_THROW(target_logits(hidden, {weight, {}}, targets - 1), Error);
  const at::Tensor temperature = at::ones({3}).requires_grad_();
  EXPECT_THROW(linear_logsumexp_and_entropy(hidden, {weight, {}}, temperature), Error);
}

}  // namespace
}  // namespace lmhead
