// Attention and rotary positions against double-precision formulas written out.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numbers>
#include <thread>

#include "lmhead/models/attention.h"
#include "lmhead/models/rotary_positions.h"

namespace lmhead {
namespace {

/// The formula, one number at a time, for tensors of float64.
at::Tensor plain_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const AttentionOptions& options) {
  const std::int64_t batch = query.size(0), length = query.size(1), heads = query.size(2), width = query.size(3);
  const std::int64_t group = heads / key.size(2);
  const auto q = query.accessor<double, 4>(), k = key.accessor<double, 4>(), v = value.accessor<double, 4>();
  at::Tensor result = at::zeros({batch, length, heads, width}, at::kDouble);
  auto out = result.accessor<double, 4>();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t first =
            options.sliding_window > 0 ? std::max<std::int64_t>(0, t - options.sliding_window + 1) : 0;
        double sum = 0;
        for (std::int64_t s = first; s <= t; ++s) {
          double score = 0;
          for (std::int64_t i = 0; i < width; ++i) score += q[b][t][h][i] * k[b][s][h / group][i];
          score *= options.scale;
          if (options.softcap > 0) score = options.softcap * std::tanh(score / options.softcap);
          sum += std::exp(score);
          for (std::int64_t i = 0; i < width; ++i) out[b][t][h][i] += std::exp(score) * v[b][s][h / group][i];
        }
        for (std::int64_t i = 0; i < width; ++i) out[b][t][h][i] /= sum;
      }
  return result.view({batch * length, heads * width});
}

TEST(CausalAttention, AgreesWithTheFormula) {
  for (const std::int64_t keys : {1, 2, 4})
    for (const std::int64_t window : {0, 1, 3, 7, 100})
      for (const double softcap : {0.0, 1.5}) {
        const auto type = at::TensorOptions().dtype(at::kDouble);
        const at::Tensor q = at::randn({2, 7, 4, 6}, type), k = at::randn({2, 7, keys, 6}, type);
        const at::Tensor v = at::randn({2, 7, keys, 6}, type);
        const AttentionOptions options{.scale = 0.7, .softcap = softcap, .sliding_window = window};
        const at::Tensor difference = causal_attention(q, k, v, options) - plain_attention(q, k, v, options);
        EXPECT_LT(difference.abs().max().item<double>(), 1e-12) << keys << ' ' << window << ' ' << softcap;
      }
}

TEST(RotaryFrequencies, AgreeWithTheFormulas) {
  for (const auto scaling : {RotaryScaling::kNone, RotaryScaling::kLinear, RotaryScaling::kLlama3}) {
    const RotarySpecification s{.width = 128, .theta = 500000, .scaling = scaling, .factor = 8};
    const at::Tensor got = rotary_frequencies(s);
    ASSERT_EQ(got.size(0), 64);
    for (std::int64_t index = 0; index < 64; ++index) {
      const double plain = std::pow(s.theta, -2.0 * double(index) / 128);
      const double turns = 8192 * plain / (2 * std::numbers::pi);  // within the original context
      const double ramp = std::min(1.0, std::max(0.0, (turns - 1) / 3));
      const double expected = scaling == RotaryScaling::kNone     ? plain
                              : scaling == RotaryScaling::kLinear ? plain / 8
                                                                  : plain * (ramp + (1 - ramp) / 8);
      EXPECT_NEAR(got[index].item<double>() / expected, 1, 1e-5) << int(scaling) << ' ' << index;
    }
  }
}

TEST(RotaryFrequencies, FollowTheLengthWhereTheScalingSaysSo) {
  const RotarySpecification dynamic{
      .width = 8, .theta = 100, .scaling = RotaryScaling::kDynamic, .factor = 3, .max_position_embeddings = 10};
  EXPECT_EQ(deciding_length(dynamic, 10), 0);
  EXPECT_EQ(deciding_length(dynamic, 11), 11);
  EXPECT_NEAR(rotary_frequencies(dynamic)[1].item<double>(), std::pow(100, -0.25), 1e-6);
  const double theta = 100 * std::pow(3 * 25 / 10.0 - 2, 8 / 6.0);
  EXPECT_NEAR(rotary_frequencies(dynamic, 25)[1].item<double>(), std::pow(theta, -0.25), 1e-6);

  RotaryTable table({.width = 4,
                     .theta = 100,
                     .scaling = RotaryScaling::kLongRope,
                     .original_max_position_embeddings = 6,
                     .short_factor = {1, 2},
                     .long_factor = {4, 8},
                     .attention_factor = 1.5});
  for (const std::int64_t length : {3, 9, 6, 7}) {
    const RotaryRows rows = table.rows(length, at::kCPU);
    ASSERT_GE(rows.sine.size(0), length);
    EXPECT_NEAR(rows.sine[2][1].item<double>(), 1.5 * std::sin(0.2 / (length > 6 ? 8 : 2)), 1e-6) << length;
    EXPECT_NEAR(rows.cosine[0][0].item<double>(), 1.5, 1e-6);
  }
}

TEST(RotaryTable, GrowsOnDemand) {
  RotaryTable table({.width = 4, .theta = 100});
  const at::Tensor before = table.rows(3, at::kCPU).cosine;
  const RotaryRows after = table.rows(9, at::kCPU);
  EXPECT_TRUE(after.cosine.narrow(0, 0, 3).equal(before));
  EXPECT_NEAR(after.sine[8][1].item<double>(), std::sin(0.8), 1e-6);
  EXPECT_TRUE(after.narrow(2, 4).sine.equal(after.select(at::arange(2, 6)).sine));
}

TEST(RotaryTable, ServesThreadsThatMakeItGrow) {
  for (int round = 0; round < 20; ++round) {
    RotaryTable table({.width = 8});
    std::vector<std::thread> threads;
    std::atomic<int> wrong = 0;
    for (int thread = 0; thread < 4; ++thread)
      threads.emplace_back([&, thread] {
        for (std::int64_t length = 1 + thread; length < 200; length += 3) {
          const RotaryRows rows = table.rows(length, at::kCPU);
          if (rows.cosine.size(0) < length || rows.sine.size(0) != rows.cosine.size(0) ||
              std::abs(rows.sine[length - 1][0].item<double>() - std::sin(double(length - 1))) > 1e-5)
            ++wrong;
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
  }
}

}  // namespace
}  // namespace lmhead
