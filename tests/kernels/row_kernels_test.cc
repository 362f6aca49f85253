#include "lmhead/kernels/vector/row_kernels.h"

#include <c10/util/BFloat16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace lmhead::vector {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// exp(z) for every z, through the gradient of a row whose largest logit is 0 and which has no target.
std::vector<float> exponentials(std::vector<float> line) {
  row_kernels().logits_float.gradient(line.data(), static_cast<std::int64_t>(line.size()), {0, 1, 0, 0, -1, 0},
                                      nullptr);
  return line;
}

TEST(RowKernels, ExponentialsAreWithinTwoUnitsInTheLastPlace) {
  std::vector<float> line;
  for (float z = -87; z < 88; z += 0.00731f) line.push_back(z);
  const std::vector<float> results = exponentials(line);
  for (std::size_t i = 0; i < line.size(); ++i) {
    const double exact = std::exp(static_cast<double>(line[i]));
    ASSERT_LE(std::abs(results[i] - exact), 2 * 1.2e-7 * exact) << line[i];
  }
}

TEST(RowKernels, ExponentialsOfTheExtremesAreExact) {
  const std::vector<float> results = exponentials({-kInfinity, -1e4f, 0, 1e4f, kInfinity, std::nanf("")});
  EXPECT_EQ(results[0], 0);
  EXPECT_EQ(results[1], 0);
  EXPECT_EQ(results[2], 1);
  EXPECT_EQ(results[3], kInfinity);
  EXPECT_EQ(results[4], kInfinity);
  EXPECT_TRUE(std::isnan(results[5]));
}

TEST(RowKernels, SoftcapIsWithinAFewUnitsInTheLastPlace) {
  std::vector<float> line, capped;
  for (float z = -60; z < 60; z += 0.0173f) line.push_back(z);
  capped.resize(line.size());
  row_kernels().logits_float.load(line.data(), nullptr, static_cast<std::int64_t>(line.size()), 1, 7, capped.data());
  for (std::size_t i = 0; i < line.size(); ++i) {
    const double exact = 7 * std::tanh(static_cast<double>(line[i]) / 7);
    ASSERT_LE(std::abs(capped[i] - exact), 4 * 1.2e-7 * std::abs(exact)) << line[i];
  }
}

TEST(RowKernels, SumsTakeTheFirstLargestLogitAndLeaveForbiddenOnesOut) {
  std::vector<float> line(37, -kInfinity);
  line[20] = line[30] = 2;
  line[3] = 1;
  const LineSums sums = row_kernels().logits_float.sums(line.data(), 37, nullptr, false, true);
  EXPECT_EQ(sums.max, 2);
  EXPECT_EQ(sums.arg_max, 20);
  EXPECT_NEAR(sums.sum, 2 + std::exp(-1), 1e-6);
  EXPECT_NEAR(sums.entropy, -std::exp(-1), 1e-6);
}

TEST(RowKernels, Bfloat16IsRoundedAsATenRoundsIt) {
  std::vector<float> line;
  for (std::uint32_t high = 0; high < 0x10000; high += 7) {
    for (const std::uint32_t low : {0x0000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const std::uint32_t bits = (high << 16) | low;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      line.push_back(value);
    }
  }
  std::vector<Bfloat16> stored(line.size());
  row_kernels().logits_bfloat16.store(line.data(), static_cast<std::int64_t>(line.size()), stored.data());
  for (std::size_t i = 0; i < line.size(); ++i) {
    const c10::BFloat16 expected(line[i]);
    if (std::isnan(line[i])) {
      EXPECT_GT(stored[i].bits & 0x7fffu, 0x7f80u);
    } else {
      ASSERT_EQ(stored[i].bits, expected.x) << line[i];
    }
  }
}

}  // namespace
}  // namespace lmhead::vector
