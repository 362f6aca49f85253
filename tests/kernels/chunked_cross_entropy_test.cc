// The composition over chunks of rows that other devices and types take, and what float16 and bfloat16 ask of it.
#include "lmhead/kernels/chunked_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "lmhead/base/random.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;

TEST(ChunkedCrossEntropy, AgreesWithPlain) {
  RandomStream random(3, "chunked");
  for (int draw_number = 0; draw_number < 40; ++draw_number) {
    Problem problem =
        draw(1 + static_cast<std::int64_t>(random.below(50)), 2 + static_cast<std::int64_t>(random.below(200)),
             1 + static_cast<std::int64_t>(random.below(20)), at::kDouble, random);
    problem.upstream = problem.upstream.abs() + 0.5;
    const Outcome exact = run(problem, at::kDouble, plain_linear_cross_entropy);
    const WantedGradients wanted{true, true, problem.bias.defined()};
    const CrossEntropyArguments arguments{problem.hidden, problem.targets, problem.map(), problem.options};
    const CrossEntropyForward forward = chunked_forward(arguments, wanted);
    EXPECT_TRUE(forward.loss.allclose(exact.loss, 1e-10, 1e-12)) << describe(problem, at::kDouble);
    const CrossEntropyGradients backward = chunked_backward(arguments, problem.upstream, forward.row_sums, wanted);
    EXPECT_TRUE(backward.hidden.allclose(exact.hidden, 1e-9, 1e-12)) << describe(problem, at::kDouble);
    EXPECT_TRUE(backward.weight.allclose(exact.weight, 1e-9, 1e-12)) << describe(problem, at::kDouble);
    if (wanted.bias) {
      EXPECT_TRUE(backward.bias.allclose(exact.bias, 1e-9, 1e-12));
    }
    if (problem.options.reduction != Reduction::kNone) {
      EXPECT_TRUE((forward.gradients.weight * problem.upstream).allclose(exact.weight, 1e-9, 1e-12));
    }
  }
}

/// Loss and gradients by the chunks of other devices and types, for an upstream of `factor`.
Outcome run_in_chunks(const CrossEntropyArguments& arguments, double factor) {
  const WantedGradients wanted{true, true, arguments.map.bias.defined()};
  const CrossEntropyForward forward = chunked_forward(arguments, {});
  const at::Tensor upstream = at::full_like(forward.loss, factor);
  const CrossEntropyGradients gradients = chunked_backward(arguments, upstream, forward.row_sums, wanted);
  return {forward.loss, gradients.hidden, gradients.weight, gradients.bias};
}

TEST(ChunkedCrossEntropy, ErrsAtMostTwiceAsMuchAsPlainInNarrowTypesToo) {
  RandomStream random(31, "narrow chunks");
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kFloat})
    for (int number = 0; number < 20; ++number) {
      const Problem problem = draw(40, 150, 16, type == at::kHalf ? at::kBFloat16 : type, random);
      if (problem.counts_nothing()) continue;
      LinearMap map = problem.map();
      map.weight = map.weight.to(type);
      if (map.bias.defined()) map.bias = map.bias.to(at::kFloat);  // as mixed precision has it
      const Outcome fast = run_in_chunks({problem.hidden.to(type), problem.targets, map, problem.options}, 1);
      const auto exact_of = [&](at::ScalarType as) {
        Problem one = problem;
        one.layout = Layout::kContiguous;
        one.upstream = at::ones_like(fast.loss).to(at::kDouble);
        return run(one, as, plain_linear_cross_entropy);
      };
      const Outcome exact = exact_of(at::kDouble), plain = exact_of(type);
      judge({fast.loss, fast.hidden, fast.weight, {}}, {plain.loss, plain.hidden, plain.weight, {}},
            {exact.loss, exact.hidden, exact.weight, {}}, scales_of(problem), type == at::kHalf ? at::kBFloat16 : type,
            describe(problem, type));
    }
}

TEST(LinearCrossEntropy, LossScalingIsExactInFloat16) {
  RandomStream random(32, "float16");
  const std::int64_t size = 64, vocab_size = 4096;
  const at::Tensor hidden = normal({size, 32}, random).to(at::kHalf), targets = ids(size, vocab_size, random);
  const at::Tensor weight = (normal({vocab_size, 32}, random) * 0.1).to(at::kHalf);
  const auto gradients = [&](const auto& function, at::ScalarType type, double scale) {
    const at::Tensor h = hidden.to(type).detach().requires_grad_(), w = weight.to(type).detach().requires_grad_();
    (function(h, LinearMap{w, {}}, targets, LinearCrossEntropyOptions{}) * scale).backward();
    return std::pair{h.grad().to(at::kDouble) / scale, w.grad().to(at::kDouble) / scale};
  };
  const auto [exact_hidden, exact_weight] = gradients(plain_linear_cross_entropy, at::kDouble, 1);
  const auto error = [](const at::Tensor& got, const at::Tensor& want) {
    return (got - want).norm().item<double>() / want.norm().item<double>();
  };
  for (const double scale : {1024.0, 65536.0}) {
    const auto [d_hidden, d_weight] = gradients(linear_cross_entropy, at::kHalf, scale);
    EXPECT_LT(error(d_hidden, exact_hidden), 1e-3) << scale;
    EXPECT_LT(error(d_weight, exact_weight), 1e-3) << scale;
  }
  EXPECT_EQ(choose_linear_cross_entropy_mode(64, at::kHalf, {.mode = LinearCrossEntropyMode::kFast}),
            LinearCrossEntropyMode::kSmall);
}

TEST(LinearCrossEntropy, NarrowTypesTakeABiasInFloat32) {
  RandomStream random(33, "float32 bias");
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const at::Tensor hidden = normal({20, 8}, random).to(type), weight = normal({70, 8}, random).to(type);
    const at::Tensor bias = normal({70}, random).to(at::kFloat).requires_grad_(), targets = ids(20, 70, random);
    const at::Tensor loss = linear_cross_entropy(hidden, {weight, bias}, targets);
    loss.backward();
    const at::Tensor exact_bias = bias.detach().to(at::kDouble).requires_grad_();
    const at::Tensor exact =
        plain_linear_cross_entropy(hidden.to(at::kDouble), {weight.to(at::kDouble), exact_bias}, targets);
    exact.backward();
    EXPECT_NEAR(loss.item<double>(), exact.item<double>(), 1e-2 * exact.item<double>());
    EXPECT_EQ(bias.grad().scalar_type(), at::kFloat);
    EXPECT_LT((bias.grad() - exact_bias.grad()).norm().item<double>(), 1e-2 * exact_bias.grad().norm().item<double>());
    EXPECT_EQ(linear_logits(hidden, {weight, bias}).scalar_type(), type);
  }
}

TEST(LinearCrossEntropy, WhatStandsUnderAnIgnoredTargetReachesNothing) {
  RandomStream random(34, "ignored");
  at::Tensor hidden = normal({6, 4}, random), targets = ids(6, 9, random);
  const at::Tensor weight = normal({9, 4}, random), bias = normal({9}, random);
  targets[2] = -100;
  const auto outcome = [&](double there, const auto& function) {
    Problem problem{.hidden = hidden.clone(),
                    .weight = weight,
                    .bias = bias,
                    .targets = targets,
                    .upstream = at::ones({}, at::kDouble)};
    problem.hidden[2].fill_(there);
    return run(problem, at::kDouble, function);
  };
  const auto chunked = [&](double there) {
    at::Tensor features = hidden.clone();
    features[2].fill_(there);
    return run_in_chunks({features, targets, {weight, bias}, {}}, 1);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(outcome(nan, linear_cross_entropy).same_bits(outcome(0, linear_cross_entropy)));
  EXPECT_TRUE(outcome(nan, plain_linear_cross_entropy).same_bits(outcome(0, plain_linear_cross_entropy)));
  EXPECT_TRUE(chunked(nan).same_bits(chunked(0)));
  EXPECT_TRUE(chunked(nan).weight.isfinite().all().item<bool>());
}

TEST(ChunkedCrossEntropy, GivesTheStatisticsOfTypesWithoutAKernel) {
  RandomStream random(35, "statistics in chunks");
  const at::Tensor hidden = normal({30, 8}, random).to(at::kHalf), weight = normal({90, 8}, random).to(at::kHalf);
  const at::Tensor targets = ids(30, 90, random);
  for (const double softcap : {0.0, 3.0}) {
    const LinearMap map{weight, {}, {0.75, softcap}};
    const TokenStatistics found = token_statistics(hidden, map, targets);
    const TokenStatistics plain =
        plain_token_statistics(hidden.to(at::kDouble), {weight.to(at::kDouble), {}, map.transform}, targets);
    EXPECT_EQ(found.log_probability.scalar_type(), at::kFloat);
    EXPECT_TRUE(found.log_probability.to(at::kDouble).allclose(plain.log_probability, 1e-2, 1e-2));
    EXPECT_TRUE(found.entropy.to(at::kDouble).allclose(plain.entropy, 1e-2, 1e-2));
    EXPECT_TRUE(found.hidden_gradient.to(at::kDouble).allclose(plain.hidden_gradient, 1e-2, 1e-2));
    EXPECT_FALSE(token_statistics(hidden, map, targets, /*with_gradient=*/false).hidden_gradient.defined());
  }
}

}  // namespace
}  // namespace lmhead
