// A sparse mixture of experts against its formula, one token and expert at a time.
#include "lmhead/models/experts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::int64_t kExperts = 5, kWidth = 6, kInner = 3;

at::Tensor gated(const at::Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return halves[0] * at::sigmoid(halves[0]) * halves[1];
}

at::Tensor one_token(const at::Tensor& x, const ExpertWeights& weights, const ExpertChoice& choice) {
  const at::Tensor probabilities = at::softmax(weights.router.matmul(x), 0);
  std::vector<std::int64_t> order(kExperts);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return probabilities[a].item<double>() > probabilities[b].item<double>();
  });
  at::Tensor result = at::zeros({kWidth}, x.options());
  double sum = 0;
  for (std::int64_t rank = 0; rank < choice.per_token; ++rank) {
    const std::int64_t expert = order[std::size_t(rank)];
    const at::Tensor inner = gated(weights.gate_up.narrow(0, expert * 2 * kInner, 2 * kInner).matmul(x));
    result = result + probabilities[expert] * weights.down.narrow(0, expert * kWidth, kWidth).matmul(inner);
    sum += probabilities[expert].item<double>();
  }
  return choice.is_normalised ? result / sum : result;
}

TEST(MixExperts, AgreesWithTheFormula) {
  const auto type = at::TensorOptions().dtype(at::kDouble);
  const ExpertWeights weights{.router = at::randn({kExperts, kWidth}, type),
                              .gate_up = at::randn({kExperts * 2 * kInner, kWidth}, type),
                              .down = at::randn({kExperts * kWidth, kInner}, type)};
  for (const std::int64_t tokens : {1, 9})
    for (const std::int64_t per_token : {1, 2, 5})
      for (const bool is_normalised : {false, true}) {
        const ExpertChoice choice{.per_token = per_token, .is_normalised = is_normalised};
        const at::Tensor x = at::randn({tokens, kWidth}, type).requires_grad_();
        const at::Tensor got = mix_experts(x, weights, choice, gated);
        std::vector<at::Tensor> rows;
        for (std::int64_t token = 0; token < tokens; ++token) rows.push_back(one_token(x[token], weights, choice));
        // Probabilities are float32.
        EXPECT_LT((got - at::stack(rows)).abs().max().item<double>(), 1e-5) << tokens << ' ' << per_token;
        const at::Tensor upstream = at::randn({tokens, kWidth}, type);
        (got * upstream).sum().backward();
        const at::Tensor gradient = x.grad().clone();
        x.mutable_grad().zero_();
        if (is_normalised) continue;  // the sum of the reference is a number without a history
        (at::stack(rows) * upstream).sum().backward();
        EXPECT_LT((gradient - x.grad()).abs().max().item<double>(), 1e-4) << tokens << ' ' << per_token;
      }
}

TEST(MixExperts, MoreExpertsThanThereAreIsRefused) {
  const ExpertWeights weights{.router = at::randn({2, 4}), .gate_up = at::randn({12, 4}), .down = at::randn({8, 3})};
  EXPECT_THROW(mix_experts(at::randn({1, 4}), weights, {.per_token = 3}, gated), Error);
  EXPECT_THROW(mix_experts(at::randn({1, 4}), weights, {.per_token = 0}, gated), Error);
}

}  // namespace
}  // namespace lmhead
