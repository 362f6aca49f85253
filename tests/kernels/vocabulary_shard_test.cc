#include "lmhead/kernels/vocabulary_shard.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "lmhead/base/error.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;

struct ShardedProblem {
  at::Tensor hidden, weight, bias, targets, temperature, class_weight;  // float64, whole; the last three may be missing
  LogitTransform transform;
  std::vector<std::int64_t> begins;  // of every shard's rows, and their end
};

ShardedProblem draw_problem(at::ScalarType type, RandomStream& random) {
  const auto size = static_cast<std::int64_t>(1 + random.below(random.uniform() < 0.2 ? 600 : 40));
  const auto vocab_size = static_cast<std::int64_t>(3 + random.below(random.uniform() < 0.2 ? 5000 : 700));
  const auto width = static_cast<std::int64_t>(1 + random.below(40));
  const auto rounded = [&](const at::Tensor& tensor) { return tensor.to(type).to(at::kDouble); };
  ShardedProblem problem;
  problem.hidden = rounded(normal({size, width}, random));
  problem.weight = rounded(normal({vocab_size, width}, random, 2 / std::sqrt(static_cast<double>(width))));
  if (random.uniform() < 0.4) problem.bias = rounded(normal({vocab_size}, random));
  if (random.uniform() < 0.3) problem.temperature = (normal({size}, random).abs() + 0.5).to(at::kFloat).to(at::kDouble);
  if (random.uniform() < 0.4) problem.class_weight = normal({vocab_size}, random).abs().to(at::kFloat).to(at::kDouble);
  problem.targets = ids(size, vocab_size, random);
  problem.transform = draw_transform(random);
  const auto first = static_cast<std::int64_t>(1 + random.below(vocab_size - 2));
  const auto second = static_cast<std::int64_t>(first + 1 + random.below(vocab_size - first - 1));
  problem.begins = {0, first, second, vocab_size};
  return problem;
}

VocabularyShard shard_of(const ShardedProblem& problem, std::size_t index, at::ScalarType type) {
  const std::int64_t begin = problem.begins[index], size = problem.begins[index + 1] - begin;
  const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
  const auto part = [&](const at::Tensor& whole, at::ScalarType as) {
    return whole.defined() ? whole.narrow(0, begin, size).to(as) : at::Tensor();
  };
  const at::Tensor local = problem.targets - begin;
  return {problem.hidden.to(type),
          {part(problem.weight, type), part(problem.bias, wide), problem.transform},
          at::where(local.ge(0).logical_and(local.lt(size)), local, at::full_like(local, -1)),
          problem.temperature.defined() ? problem.temperature.to(wide) : at::Tensor(),
          part(problem.class_weight, wide)};
}

/// Every shard's sums, and what they give over the whole vocabulary.
struct Combined {
  std::vector<at::Tensor> sums;
  at::Tensor logsumexp, target_logit, weighted;
};
Combined combine(const ShardedProblem& problem, at::ScalarType type, bool with_scores = false) {
  Combined result;
  for (std::size_t index = 0; index < 3; ++index)
    result.sums.push_back(vocabulary_shard_sums(shard_of(problem, index, type), true, with_scores));
  const at::Tensor all = at::stack(result.sums);
  result.logsumexp = all.select(2, 1).logsumexp({0});
  result.target_logit = all.select(2, 2).sum(0);
  result.weighted = all.select(2, 3).sum(0);
  return result;
}

constexpr double kSmoothing = 0.3, kZLoss = 0.01;

/// Losses of every token, with smoothing and z-loss, from the sums.
at::Tensor losses_of(const ShardedProblem& problem, const Combined& sums) {
  at::Tensor of_target = at::ones_like(sums.logsumexp);
  double total = static_cast<double>(problem.weight.size(0));
  if (problem.class_weight.defined()) {
    of_target = problem.class_weight.index_select(0, problem.targets);
    total = problem.class_weight.sum().item<double>();
  }
  return (1 - kSmoothing) * of_target * (sums.logsumexp - sums.target_logit) +
         kSmoothing / problem.weight.size(0) * (sums.logsumexp * total - sums.weighted) +
         kZLoss * sums.logsumexp.square();
}

/// The gradients of `upstream` [N] times those losses: of hidden summed over shards, of weight and bias joined.
struct Gradients {
  at::Tensor hidden, weight, bias, squares;
};
Gradients gradients_of(const ShardedProblem& problem, at::ScalarType type, const Combined& sums,
                       const at::Tensor& upstream) {
  at::Tensor of_target = at::ones_like(upstream);
  double total = static_cast<double>(problem.weight.size(0));
  if (problem.class_weight.defined()) {
    of_target = problem.class_weight.index_select(0, problem.targets);
    total = problem.class_weight.sum().item<double>();
  }
  const double share = kSmoothing / problem.weight.size(0);
  const at::Tensor target = (1 - kSmoothing) * of_target,
                   probability = target + share * total + 2 * kZLoss * sums.logsumexp;
  Gradients result;
  std::vector<at::Tensor> weights, biases;
  for (std::size_t index = 0; index < 3; ++index) {
    const at::Tensor factors = at::stack(
        {sums.sums[index].select(1, 0), sums.logsumexp, upstream * probability, upstream * target, upstream * share},
        1);
    const auto found =
        vocabulary_shard_gradients(shard_of(problem, index, type), factors, {true, true, problem.bias.defined()}, true);
    result.hidden = index == 0 ? found.hidden : result.hidden + found.hidden;
    result.squares = index == 0 ? found.squares : result.squares + found.squares;
    weights.push_back(found.weight), biases.push_back(found.bias);
  }
  result.weight = at::cat(weights);
  if (problem.bias.defined()) result.bias = at::cat(biases);
  return result;
}

LinearCrossEntropyOptions options_of(const ShardedProblem& problem) {
  LinearCrossEntropyOptions options;
  options.reduction = Reduction::kNone;
  options.label_smoothing = kSmoothing, options.z_loss = kZLoss;
  options.class_weight = problem.class_weight, options.temperature = problem.temperature;
  return options;
}

class VocabularyShardTest : public ::testing::TestWithParam<at::ScalarType> {};

// Rounded inputs are exact in float64, so the reference sees the same numbers; what is left is the arithmetic of the
// type, whose unit is compared with the largest number that a sum is made of.
TEST_P(VocabularyShardTest, ShardsGiveTheWholeLossAndItsGradients) {
  const at::ScalarType type = GetParam();
  const double unit = type == at::kDouble ? 1e-12 : type == at::kFloat ? 2e-6 : 3e-2;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    RandomStream random(seed, "vocabulary_shard_test");
    const ShardedProblem problem = draw_problem(type, random);
    const at::Tensor upstream = normal({problem.hidden.size(0)}, random);
    const at::Tensor hidden = problem.hidden.detach().clone().requires_grad_(),
                     weight = problem.weight.detach().clone().requires_grad_();
    at::Tensor bias = problem.bias;
    if (bias.defined()) bias = bias.detach().clone().requires_grad_();
    const at::Tensor exact =
        plain_linear_cross_entropy(hidden, {weight, bias, problem.transform}, problem.targets, options_of(problem));
    (exact * upstream).sum().backward();

    const Combined sums = combine(problem, type);
    const Gradients found = gradients_of(problem, type, sums, upstream);
    const auto expect_close = [&](const at::Tensor& got, const at::Tensor& wanted, const char* what) {
      const double scale = std::max(1.0, wanted.abs().max().item<double>());
      const double error = (got.to(at::kDouble) - wanted).abs().max().item<double>();
      EXPECT_LE(error, 4 * unit * scale * std::max(1.0, exact.detach().abs().max().item<double>()))
          << what << ", seed " << seed;
    };
    expect_close(losses_of(problem, sums), exact.detach(), "losses");
    expect_close(found.hidden, hidden.grad(), "d_hidden");
    expect_close(found.weight, weight.grad(), "d_weight");
    if (bias.defined()) expect_close(found.bias, bias.grad(), "d_bias");
  }
}

TEST_P(VocabularyShardTest, ScoresAndSquaresAreThoseOfThePlainComposition) {
  const at::ScalarType type = GetParam();
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    RandomStream random(seed, "vocabulary_shard_test scores");
    ShardedProblem problem = draw_problem(type, random);
    problem.temperature = problem.class_weight = at::Tensor();
    const Combined sums = combine(problem, type, true);
    const LinearMap map{problem.weight, problem.bias, problem.transform};
    const TokenStatistics exact = plain_token_statistics(problem.hidden, map, problem.targets);
    const double unit = type == at::kDouble ? 1e-11 : type == at::kFloat ? 1e-4 : 0.2;
    at::Tensor mean_logit = at::zeros_like(sums.logsumexp), squares;
    for (std::size_t index = 0; index < 3; ++index) {
      const at::Tensor share = (sums.sums[index].select(1, 1) - sums.logsumexp).exp();
      mean_logit = mean_logit + share * (sums.sums[index].select(1, 1) - sums.sums[index].select(1, 4));
      const at::Tensor ones = at::ones_like(sums.logsumexp), zeros = at::zeros_like(ones);
      const at::Tensor factors = at::stack({sums.sums[index].select(1, 0), sums.logsumexp, ones, ones, zeros}, 1);
      const auto found = vocabulary_shard_gradients(shard_of(problem, index, type), factors, {}, true);
      EXPECT_FALSE(found.hidden.defined() || found.weight.defined() || found.bias.defined());
      squares = index == 0 ? found.squares : squares + found.squares;
    }
    EXPECT_LE((sums.logsumexp - mean_logit - exact.entropy).abs().max().item<double>(), unit) << seed;
    EXPECT_LE((squares - exact.logit_gradient_square).abs().max().item<double>(), unit * 4) << seed;
    const at::Tensor first = shard_of(problem, 0, at::kDouble).targets.ge(0);  // targets of the first shard
    const at::Tensor logits = linear_logits(problem.hidden, map).narrow(1, 0, problem.begins[1]);
    if (type == at::kDouble) {
      EXPECT_TRUE(
          sums.sums[0].select(1, 5).to(at::kBool).equal(logits.argmax(1).eq(problem.targets).logical_and(first)))
          << seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, VocabularyShardTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(VocabularyShardTest, WrongArgumentsAreOneLine) {
  RandomStream random(0, "vocabulary_shard_test wrong");
  const ShardedProblem problem = draw_problem(at::kFloat, random);
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const VocabularyShard good = shard_of(problem, 1, at::kFloat);
  VocabularyShard shard = good;
  shard.targets = at::full_like(shard.targets, shard.map.weight.size(0));
  EXPECT_NE(message([&] { vocabulary_shard_sums(shard, false, false); }).find("targets must be rows of the shard's"),
            std::string::npos);
  shard = good, shard.map.weight = shard.map.weight.to(at::kDouble);
  EXPECT_NE(message([&] { vocabulary_shard_sums(shard, false, false); }).find("weight must be a shard of rows"),
            std::string::npos);
  shard = good, shard.class_weight = at::zeros({1 + shard.map.weight.size(0)});
  EXPECT_NE(message([&] { vocabulary_shard_sums(shard, true, false); }).find("class weights must be"),
            std::string::npos);
  EXPECT_NE(message([&] { vocabulary_shard_gradients(good, at::zeros({1, 5}), {}, false); }).find("factors must be"),
            std::string::npos);
}

}  // namespace
}  // namespace lmhead
