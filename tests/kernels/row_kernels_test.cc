#include "lmhead/kernels/vector/row_kernels.h"

#include <c10/util/BFloat16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace lmhead::vector {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// exp(z) for every z, through the gradient of a row whose largest logit is 0 and which has no target.
std::vector<float> exponentials(std::vector<float> line) {
  row_kernels().logits_float.gradient(line.data(), static_cast<std::int64_t>(line.size()), {0, 1, 0, 0, -1}, nullptr,
                                      {});
  return line;
}

TEST(RowKernels, WeightsOfScoresAddUpToTheirSum) {
  for (const std::int64_t size : {1, 7, 16, 33, 300}) {
    std::vector<float> scores(static_cast<std::size_t>(size));
    for (std::int64_t i = 0; i < size; ++i) scores[std::size_t(i)] = i % 3 == 1 ? -kInfinity : float(i % 11) * 9.f - 40;
    std::vector<double> want(scores.begin(), scores.end());
    const double largest = *std::max_element(want.begin(), want.end());
    double sum = 0;
    for (double& score : want) sum += score = std::exp(score - largest);
    const float found = row_kernels().attention_float.exponentials(scores.data(), size);
    EXPECT_NEAR(found, sum, 4e-7 * sum + 1e-7) << size;  // rounding of float32, in sixteen sums side by side
    for (std::size_t i = 0; i < scores.size(); ++i) EXPECT_NEAR(scores[i], want[i], 3e-7 * want[i] + 2e-38);
    std::vector<double> wide(want.size(), 3.0);
    EXPECT_DOUBLE_EQ(row_kernels().attention_double.exponentials(wide.data(), size), double(size));
  }
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

TEST(RowKernels, ExponentialsInFloat64AreWithinTwoUnitsInTheLastPlace) {
  const auto of = [](std::vector<double> line) {
    row_kernels().logits_double.gradient(line.data(), static_cast<std::int64_t>(line.size()), {0, 1, 0, 0, -1}, nullptr,
                                         {});
    return line;
  };
  std::vector<double> line;
  for (double z = -708; z < 709.4; z += 0.01731) line.push_back(z);
  for (double z = -1; z < 1; z += 0.000173) line.push_back(z);
  const std::vector<double> results = of(line);
  for (std::size_t i = 0; i < line.size(); ++i) {
    const long double exact = std::exp(static_cast<long double>(line[i]));
    ASSERT_LE(std::abs(results[i] - exact), 2 * 2.3e-16L * exact) << line[i];
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> extremes = of({-infinity, -1e300, -709, 0, 710, 1e300, infinity, std::nan("")});
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(extremes[i], 0) << i;
  EXPECT_EQ(extremes[3], 1);
  for (std::size_t i = 4; i < 7; ++i) EXPECT_EQ(extremes[i], infinity) << i;
  EXPECT_TRUE(std::isnan(extremes[7]));
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
  row_kernels().logits_float.load(line.data(), nullptr, static_cast<std::int64_t>(line.size()), {{.softcap = 7}},
                                  capped.data());
  for (std::size_t i = 0; i < line.size(); ++i) {
    const double exact = 7 * std::tanh(static_cast<double>(line[i]) / 7);
    ASSERT_LE(std::abs(capped[i] - exact), 4 * 1.2e-7 * std::abs(exact)) << line[i];
  }
}

TEST(RowKernels, SumsTakeTheFirstLargestLogitAndLeaveForbiddenOnesOut) {
  std::vector<float> line(37, -kInfinity);
  line[20] = line[30] = 2;
  line[3] = 1;
  const LineSums sums = row_kernels().logits_float.sums(line.data(), 37, nullptr, false, true, {});
  EXPECT_EQ(sums.max, 2);
  EXPECT_EQ(sums.arg_max, 20);
  EXPECT_NEAR(sums.sum, 2 + std::exp(-1), 1e-6);
  EXPECT_NEAR(sums.entropy, -std::exp(-1), 1e-6);
}

TEST(RowKernels, TheSigmoidCapIsWithinAFewUnitsInTheLastPlace) {
  std::vector<float> line, capped;
  for (float z = -60; z < 60; z += 0.0173f) line.push_back(z);
  capped.resize(line.size());
  const LineTransform transform{{.sigmoid_cap = {23, 5, 7.5}}};
  row_kernels().logits_float.load(line.data(), nullptr, static_cast<std::int64_t>(line.size()), transform,
                                  capped.data());
  for (std::size_t i = 0; i < line.size(); ++i) {
    const double exact = 23 / (1 + std::exp(-(static_cast<double>(line[i]) + 5) / 7.5));
    ASSERT_LE(std::abs(capped[i] - exact), 8 * 1.2e-7 * exact) << line[i];
  }
}

double sigsoftmax(double z) { return 2 * z - (std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z)))); }

TEST(RowKernels, SigsoftmaxAndItsSlopeAreExactAtBothEnds) {
  std::vector<float> line{-1e4f, -kInfinity, 1e4f};
  for (float z = -80; z < 80; z += 0.0173f) line.push_back(z);
  const auto size = static_cast<std::int64_t>(line.size());
  const auto& kernels = row_kernels().logits_float;
  for (const double inverse_temperature : {1.0, 0.5}) {
    const LineTransform transform{{.sigsoftmax = true}, inverse_temperature};
    const auto scale = static_cast<float>(inverse_temperature);
    std::vector<float> loaded(line.size());
    std::vector<double> logits(line.size());
    kernels.load(line.data(), nullptr, size, transform, loaded.data());
    for (std::size_t i = 0; i < line.size(); ++i) logits[i] = kernels.logit(loaded[i], transform);
    EXPECT_EQ(logits[0], scale * -2e4f);
    EXPECT_EQ(logits[1], -kInfinity);
    EXPECT_EQ(logits[2], scale * 1e4f);
    for (std::size_t i = 3; i < line.size(); ++i) {
      const double z = line[i], exact = scale * sigsoftmax(z);
      ASSERT_LE(std::abs(logits[i] - exact), 2.4e-7 * (1 + std::abs(exact))) << z;
    }
    // With smoothing -1 and no probability, the gradient of a row is the slope itself.
    std::vector<float> slopes = loaded;
    kernels.gradient(slopes.data(), size, {80, 0, -1, 0, -1}, nullptr, transform);
    for (std::size_t i = 3; i < line.size(); ++i) {
      const double exact = 2 - 1 / (1 + std::exp(-static_cast<double>(line[i])));
      ASSERT_LE(std::abs(slopes[i] - exact), 1e-6 * exact) << line[i];
    }
  }
}

TEST(RowKernels, SumsAndGradientsUnderSigsoftmaxAreExactWhereverTheRowLies) {
  const auto& kernels = row_kernels().logits_float;
  const LineTransform transform{{.sigsoftmax = true}};
  for (const double place : {-2000.0, -300.0, -88.0, -40.0, -1.0, 0.0, 3.0, 50.0, 88.0, 400.0}) {
    std::vector<float> line;
    for (int index = 0; index < 43; ++index)
      line.push_back(static_cast<float>(place) - 0.37f * static_cast<float>(index % 17));
    line[20] = -kInfinity;
    double lse = -INFINITY, entropy = 0, weighted = 0;
    const double max = sigsoftmax(line[0]);
    double sum = 0;
    for (const float z : line) sum += std::exp(sigsoftmax(z) - max);
    lse = max + std::log(sum);
    std::vector<float> weights(line.size(), 0.5f);
    weights[20] = 0;
    for (const float z : line) {
      if (std::isinf(z)) continue;
      entropy += std::exp(sigsoftmax(z) - max) * (sigsoftmax(z) - max);
      weighted += 0.5 * (sigsoftmax(z) - max);
    }
    // Rounding of max itself counts, since it is where the others are measured from.
    const double rounding = 1e-6 * (2 + std::abs(max) / 20);
    const LineSums sums = kernels.sums(line.data(), 43, nullptr, false, true, transform);
    EXPECT_NEAR(sums.max, max, 2.4e-7 * (1 + std::abs(max))) << place;
    EXPECT_EQ(sums.arg_max, 0) << place;
    EXPECT_NEAR(sums.sum, sum, 4 * rounding * sum) << place;
    EXPECT_NEAR(sums.entropy, entropy, 8 * rounding * (1 + std::abs(entropy))) << place;
    line[20] = line[19];  // of minus infinity the weighted sum is not a number
    const LineSums of_weights = kernels.sums(line.data(), 43, weights.data(), true, false, transform);
    EXPECT_NEAR(of_weights.weighted, weighted, 20 * rounding * (1 + std::abs(weighted))) << place;
    EXPECT_NEAR(of_weights.weight, 21, 1e-6);
    line[20] = -kInfinity;
    std::vector<float> gradient = line;
    kernels.gradient(gradient.data(), 43, {lse, 2, 0, 1, 5}, nullptr, transform);
    for (std::size_t i = 0; i < line.size(); ++i) {
      const double z = line[i], slope = 2 - 1 / (1 + std::exp(-z));
      const double exact = (2 * std::exp(sigsoftmax(z) - lse) - (i == 5 ? 1 : 0)) * slope;
      EXPECT_NEAR(gradient[i], exact, 8 * rounding) << place << ' ' << i;
    }
  }
}

TEST(RowKernels, PiecesAndTheirSlopesAreExactInEveryPieceAndAtBothEnds) {
  const LinearPieces pieces{.count = 6, .step = 1.5, .slopes = {0.5, 2, 1, 0.25, 3, 0.75}};
  const auto share = [](double z, int piece) {  // what of the way from 0 to z lies in the piece
    const double low = (piece - 3) * 1.5, high = low + 1.5;
    return std::clamp(z, piece == 0 ? -1e9 : low, piece == 5 ? 1e9 : high) - (piece < 3 ? high : low);
  };
  const auto exact = [&](double z) {
    double sum = 0;
    for (int piece = 0; piece < 6; ++piece) sum += pieces.slopes[piece] * share(z, piece);
    return sum;
  };
  std::vector<float> line{-kInfinity, kInfinity, std::nanf(""), 0};
  for (float z = -12; z < 12; z += 0.00173f) line.push_back(z);
  const auto size = static_cast<std::int64_t>(line.size());
  const LineTransform transform{{}, 1, &pieces};
  std::vector<float> logits(line.size());
  row_kernels().logits_float.load(line.data(), nullptr, size, transform, logits.data());
  EXPECT_EQ(logits[0], -kInfinity);
  EXPECT_EQ(logits[1], kInfinity);
  EXPECT_TRUE(std::isnan(logits[2]));
  EXPECT_EQ(logits[3], 0);
  for (std::size_t i = 4; i < line.size(); ++i)
    ASSERT_NEAR(logits[i], exact(line[i]), 1e-6 * (1 + std::abs(exact(line[i])))) << line[i];
  // With smoothing -1 and no probability the gradient of a row is the slope itself, and that by a piece's slope the sum
  // of what the row has of the piece.
  std::vector<float> slopes(logits.begin() + 4, logits.end());
  std::vector<double> by_slopes(6), want(6);
  row_kernels().logits_float.gradient(slopes.data(), size - 4, {0, 0, -1, 0, -1, 0, by_slopes.data()}, nullptr,
                                      transform);
  for (std::size_t i = 4; i < line.size(); ++i) {
    const double place = line[i] / 1.5 + 3;
    if (std::abs(place - std::round(place)) > 1e-5) {
      ASSERT_EQ(slopes[i - 4], float(pieces.slopes[std::clamp(int(std::floor(place)), 0, 5)])) << line[i];
    }
    for (int piece = 0; piece < 6; ++piece) want[piece] += share(line[i], piece);
  }
  for (int piece = 0; piece < 6; ++piece)
    EXPECT_NEAR(by_slopes[piece], want[piece], 1e-5 * std::abs(want[piece])) << piece;
}

TEST(RowKernels, AreThoseOfTheInstructionSetThatATenNames) {
  const char* named = std::getenv("ATEN_CPU_CAPABILITY");
  if (!named) GTEST_SKIP() << "nothing is named";
  const std::string name = row_kernels().name;
  EXPECT_EQ(name, std::string(named) == "default" ? "baseline" : named);
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
