#include "lmhead/kernels/linear_distillation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/plain_logits.h"
#include "tests/heads/allocation_meter.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;
using Tensors = std::vector<at::Tensor>;

struct DistillationProblem {
  at::Tensor hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias;  // float64; biases may be undefined
  LogitTransform transform, teacher_transform;
  DistillationOptions options;
  at::Tensor upstream;
};

DistillationProblem draw_problem(at::ScalarType type, RandomStream& random) {
  const auto below = [&](std::uint64_t bound) { return static_cast<std::int64_t>(1 + random.below(bound)); };
  const std::int64_t size = below(30), vocab_size = below(random.uniform() < 0.2 ? 4000 : 300);
  const std::int64_t width = below(24), teacher_width = below(40);
  const auto rounded = [&](const at::Tensor& tensor) { return tensor.to(type).to(at::kDouble); };
  const auto matrix = [&](std::int64_t columns) {
    return rounded(normal({vocab_size, columns}, random, 2 / std::sqrt(static_cast<double>(columns))));
  };
  DistillationProblem problem;
  problem.hidden = rounded(normal({size, width}, random));
  problem.weight = matrix(width);
  problem.teacher_hidden = rounded(normal({size, teacher_width}, random));
  problem.teacher_weight = matrix(teacher_width);
  if (random.uniform() < 0.4) problem.bias = rounded(normal({vocab_size}, random));
  if (random.uniform() < 0.4) problem.teacher_bias = rounded(normal({vocab_size}, random));
  problem.transform = draw_transform(random);
  if (random.uniform() < 0.4) problem.teacher_transform.softcap = 5;
  if (random.uniform() < 0.4) problem.teacher_transform.scale = 0.5;
  problem.options.divergence = static_cast<Divergence>(random.below(3));
  problem.options.beta = 0.1 + 0.8 * random.uniform();
  if (random.uniform() < 0.5) problem.options.temperature = 0.5 + 2 * random.uniform();
  if (random.uniform() < 0.4) problem.options.token_weight = normal({size}, random).abs();
  problem.options.reduction = static_cast<Reduction>(random.below(3));
  problem.upstream = problem.options.reduction == Reduction::kNone ? normal({size}, random) : normal({}, random);
  return problem;
}

std::string describe(const DistillationProblem& problem, at::ScalarType type) {
  std::ostringstream text;
  text << type << " N " << problem.hidden.size(0) << " V " << problem.weight.size(0) << " divergence "
       << static_cast<int>(problem.options.divergence) << " beta " << problem.options.beta << " temperature "
       << problem.options.temperature << " reduction " << static_cast<int>(problem.options.reduction);
  return text.str();
}

/// Loss and the gradients of hidden, weight and bias.
template <class Function>
Tensors run_problem(const DistillationProblem& problem, at::ScalarType type, const Function& function) {
  const auto as = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor.to(type, false, true) : tensor; };
  const auto leaf = [&](const at::Tensor& tensor) { return tensor.defined() ? as(tensor).requires_grad_() : tensor; };
  const at::Tensor hidden = leaf(problem.hidden);
  const LinearMap map{leaf(problem.weight), leaf(problem.bias), problem.transform};
  const LinearMap teacher{as(problem.teacher_weight), as(problem.teacher_bias), problem.teacher_transform};
  const at::Tensor loss = function(hidden, map, as(problem.teacher_hidden), teacher, problem.options);
  (loss * problem.upstream.to(loss.scalar_type())).sum().backward();
  return {loss, hidden.grad(), map.weight.grad(), problem.bias.defined() ? map.bias.grad() : at::Tensor()};
}

/// What the header says, from the probabilities themselves.
at::Tensor by_definition(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& teacher_hidden,
                         const LinearMap& teacher, const DistillationOptions& options) {
  const auto log_probabilities = [&](const at::Tensor& features, const LinearMap& of) {
    at::Tensor products = features.matmul(of.weight.t());
    if (of.bias.defined()) products = products + of.bias;
    return at::log_softmax(logits_of_product(products, of.transform) / options.temperature, 1);
  };
  const at::Tensor log_p = log_probabilities(hidden, map), log_q = log_probabilities(teacher_hidden, teacher);
  const at::Tensor p = log_p.exp(), q = log_q.exp();
  at::Tensor losses;
  if (options.divergence == Divergence::kForwardKl) losses = (q * (log_q - log_p)).sum(1);
  if (options.divergence == Divergence::kReverseKl) losses = (p * (log_p - log_q)).sum(1);
  if (options.divergence == Divergence::kJsd) {
    const at::Tensor log_m = (options.beta * q + (1 - options.beta) * p).log();
    losses = options.beta * (q * (log_q - log_m)).sum(1) + (1 - options.beta) * (p * (log_p - log_m)).sum(1);
  }
  if (options.token_weight.defined()) losses = losses * options.token_weight;
  if (options.reduction == Reduction::kNone) return losses;
  return options.reduction == Reduction::kSum ? losses.sum() : losses.sum() / static_cast<double>(losses.size(0));
}

void expect_close(const Tensors& got, const Tensors& want, double tolerance, const std::string& what) {
  static const char* const names[] = {"loss", "hidden", "weight", "bias"};
  for (std::size_t index = 0; index < want.size(); ++index) {
    ASSERT_EQ(got[index].defined(), want[index].defined()) << what << ": " << names[index];
    if (!want[index].defined()) continue;
    const double scale = 1 + want[index].abs().max().item<double>();
    const double worst = (got[index].to(at::kDouble) - want[index]).abs().max().item<double>();
    EXPECT_LE(worst, tolerance * scale) << what << ": " << names[index];
  }
}

TEST(LinearDistillation, IsItsDefinitionForRandomProblems) {
  RandomStream random(1, "distillation");
  for (int number = 0; number < 120; ++number) {
    const DistillationProblem problem = draw_problem(at::kDouble, random);
    const Tensors want = run_problem(problem, at::kDouble, by_definition);
    // Sums of up to 4,000 terms in float64, and differences of logarithms.
    expect_close(run_problem(problem, at::kDouble, linear_distillation), want, 1e-11, describe(problem, at::kDouble));
    expect_close(run_problem(problem, at::kDouble, plain_linear_distillation), want, 1e-11, "plain");
  }
}

TEST(LinearDistillation, IsAsExactAsItsTypes) {
  RandomStream random(2, "distillation, types");
  for (int number = 0; number < 60; ++number)
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const DistillationProblem problem = draw_problem(type, random);
      const Tensors want = run_problem(problem, at::kDouble, by_definition);
      // Half a unit of the type in each logit's gradient and in each result, sums over N and V of such.
      const double unit = type == at::kFloat ? 6e-8 : type == at::kHalf ? 5e-4 : 4e-3;
      const double terms = 8 * std::sqrt(static_cast<double>(problem.hidden.size(0)));
      expect_close(run_problem(problem, type, linear_distillation), want, terms * unit, describe(problem, type));
    }
}

TEST(LinearDistillation, FromItselfIsNothing) {
  RandomStream random(3, "distillation, itself");
  const at::Tensor hidden = normal({7, 5}, random), weight = normal({30, 5}, random);
  for (const auto divergence : {Divergence::kForwardKl, Divergence::kReverseKl, Divergence::kJsd}) {
    const at::Tensor own = hidden.clone().requires_grad_();
    const at::Tensor loss = linear_distillation(own, {weight, {}}, hidden, {weight, {}}, {.divergence = divergence});
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), 0, 1e-15);
    EXPECT_LT(own.grad().abs().max().item<double>(), 1e-15);
  }
}

TEST(LinearDistillation, OfATeacherThatIsSureIsCrossEntropy) {
  RandomStream random(4, "distillation, sure");
  const at::Tensor hidden = normal({6, 4}, random), weight = normal({9, 4}, random), targets = ids(6, 9, random);
  at::Tensor sure = at::zeros({6, 9}, at::kDouble).scatter_(1, targets.unsqueeze(1), 2000);
  const LinearMap teacher{at::full({9, 9}, 0.0, at::kDouble), {}};
  teacher.weight.fill_diagonal_(1);
  const at::Tensor loss = linear_distillation(hidden, {weight, {}}, sure, teacher);
  EXPECT_NEAR(loss.item<double>(), linear_cross_entropy(hidden, {weight, {}}, targets).item<double>(), 1e-13);
}

TEST(LinearDistillation, GivesDerivativesOfEveryKind) {
  RandomStream random(5, "distillation, derivatives");
  for (int number = 0; number < 20; ++number) {
    DistillationProblem problem = draw_problem(at::kDouble, random);
    const auto penalty = [&](const auto& function) {
      const at::Tensor hidden = problem.hidden.clone().requires_grad_();
      const LinearMap map{problem.weight.clone().requires_grad_(), problem.bias, problem.transform};
      const at::Tensor loss =
          function(hidden, map, problem.teacher_hidden,
                   LinearMap{problem.teacher_weight, problem.teacher_bias, problem.teacher_transform}, problem.options);
      const Tensors first = torch::autograd::grad({loss}, {hidden, map.weight}, {problem.upstream}, true, true);
      return torch::autograd::grad({first[0].square().sum() + first[1].square().sum()}, {hidden, map.weight});
    };
    const Tensors got = penalty(linear_distillation), want = penalty(by_definition);
    for (int which = 0; which < 2; ++which)
      EXPECT_TRUE(got[which].allclose(want[which], 1e-8, 1e-10)) << describe(problem, at::kDouble);
  }
}

TEST(LinearDistillation, RunsTwiceOverAKeptGraph) {
  RandomStream random(6, "distillation, kept");
  const at::Tensor hidden = normal({6, 4}, random).requires_grad_(), weight = normal({9, 4}, random);
  const at::Tensor loss =
      linear_distillation(hidden, {weight, {}}, normal({6, 3}, random), {normal({9, 3}, random), {}});
  const at::Tensor twice = at::full({}, 2.0, at::kDouble);
  const at::Tensor first = torch::autograd::grad({loss}, {hidden}, {twice}, true)[0], seen = first.clone();
  const at::Tensor second = torch::autograd::grad({loss}, {hidden}, {twice})[0];
  EXPECT_TRUE(first.equal(seen));
  EXPECT_TRUE(second.equal(seen));
}

TEST(LinearDistillation, HoldsNoLogitsOfAllTokens) {
  RandomStream random(7, "distillation, memory");
  const std::int64_t size = 2048, vocab_size = 32768, width = 8;
  const at::Tensor hidden = normal({size, width}, random).to(at::kFloat).requires_grad_();
  const at::Tensor weight = normal({vocab_size, width}, random).to(at::kFloat).requires_grad_();
  const std::int64_t peak = AllocationMeter::peak_of(
      [&] { linear_distillation(hidden, {weight, {}}, hidden.detach(), {weight.detach() * 2, {}}).backward(); });
  // Both logits of all tokens would be 2 x 256 MiB. Of a block there are at most a dozen of 16 MiB each.
  EXPECT_LT(peak, std::int64_t{224} << 20);
}

TEST(LinearDistillation, NamesWhatDoesNotFit) {
  const at::Tensor hidden = at::zeros({4, 3}), weight = at::zeros({7, 3});
  EXPECT_THROW(linear_distillation(hidden, {weight, {}}, at::zeros({5, 3}), {weight, {}}), Error);
  EXPECT_THROW(linear_distillation(hidden, {weight, {}}, hidden, {at::zeros({6, 3}), {}}), Error);
  EXPECT_THROW(linear_distillation(hidden, {weight, {}}, hidden, {weight, {}}, {.temperature = 0}), Error);
  EXPECT_THROW(
      linear_distillation(hidden, {weight, {}}, hidden, {weight, {}}, {.divergence = Divergence::kJsd, .beta = 1}),
      Error);
  EXPECT_THROW(linear_distillation(hidden, {weight, {}}, hidden, {weight, {}}, {.token_weight = at::zeros({3})}),
               Error);
  at::Tensor trained = weight.clone().requires_grad_();
  EXPECT_THROW(linear_distillation(hidden, {weight, {}}, hidden, {trained, {}}), Error);
}

}  // namespace
}  // namespace lmhead
