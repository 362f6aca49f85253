#include "lmhead/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace lmhead {
namespace {

TEST(RandomStream, SameSeedNameAndIndexGiveTheSameDraws) {
  RandomStream a(1, "x", 2), b(1, "x", 2);
  for (int draw = 0; draw < 100; ++draw) EXPECT_EQ(a.next_u64(), b.next_u64());
}

TEST(RandomStream, AnyDifferenceGivesOtherDraws) {
  std::set<std::uint64_t> firsts;
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    for (const char* name : {"", "a", "b", "ab", "model.layers.0", "model.layers.1"})
      for (std::uint64_t index : {0ULL, 1ULL, 1ULL << 32, ~0ULL})
        firsts.insert(RandomStream(seed, name, index).next_u64());
  EXPECT_EQ(firsts.size(), 20u * 6 * 4);
}

TEST(RandomStream, NeighbouringStreamsAreUncorrelated) {
  constexpr int kDraws = 20000;
  RandomStream a(0, "x", 0), b(0, "x", 1), c(1, "x", 0), d(0, "y", 0);
  double ab = 0, ac = 0, ad = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    const double x = a.normal();
    ab += x * b.normal();
    ac += x * c.normal();
    ad += x * d.normal();
  }
  const double four_errors = 4 / std::sqrt(double(kDraws));
  EXPECT_NEAR(ab / kDraws, 0, four_errors);
  EXPECT_NEAR(ac / kDraws, 0, four_errors);
  EXPECT_NEAR(ad / kDraws, 0, four_errors);
}

TEST(RandomStream, UniformFillsTheUnitIntervalEvenly) {
  RandomStream stream(0, "uniform");
  std::vector<int> bins(16);
  constexpr int kDraws = 160000;
  for (int draw = 0; draw < kDraws; ++draw) {
    const double value = stream.uniform();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    ++bins[std::size_t(value * 16)];
  }
  double chi_square = 0;
  for (const int count : bins) chi_square += std::pow(count - kDraws / 16.0, 2) / (kDraws / 16.0);
  EXPECT_LT(chi_square, 37.7);  // 15 degrees of freedom: exceeded once in a thousand
}

TEST(RandomStream, BelowIsUnbiasedWhereMultiplyShiftWouldNotBe) {
  // For 3 * 2^62 a plain remainder or product would give a third of the values twice the others' share.
  RandomStream stream(0, "below");
  const std::uint64_t bound = 3ULL << 62;
  int low = 0;
  constexpr int kDraws = 30000;
  for (int draw = 0; draw < kDraws; ++draw) {
    const std::uint64_t value = stream.below(bound);
    ASSERT_LT(value, bound);
    low += value < bound / 3;
  }
  EXPECT_NEAR(low / double(kDraws), 1 / 3.0, 4 * std::sqrt(2 / 9.0 / kDraws));
}

TEST(RandomStream, BelowReachesEverySmallValue) {
  RandomStream stream(0, "below");
  for (int draw = 0; draw < 10; ++draw) EXPECT_EQ(stream.below(1), 0u);
  std::set<std::uint64_t> seen;
  for (int draw = 0; draw < 200; ++draw) seen.insert(stream.below(5));
  EXPECT_EQ(seen, (std::set<std::uint64_t>{0, 1, 2, 3, 4}));
}

TEST(RandomStream, NormalHasTheMomentsAndTailsOfTheNormal) {
  RandomStream stream(0, "normal");
  constexpr int kDraws = 200000;
  double sum = 0, square = 0, fourth = 0;
  int beyond_two = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    const double value = stream.normal();
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    square += value * value;
    fourth += std::pow(value, 4);
    beyond_two += std::abs(value) > 2;
  }
  const double error = 1 / std::sqrt(double(kDraws));
  EXPECT_NEAR(sum / kDraws, 0, 4 * error);
  EXPECT_NEAR(square / kDraws, 1, 4 * std::sqrt(2.0) * error);
  EXPECT_NEAR(fourth / kDraws, 3, 4 * std::sqrt(96.0) * error);
  EXPECT_NEAR(beyond_two / double(kDraws), 0.0455, 4 * 0.21 * error);
}

TEST(HashText, IsFixed) {
  // Names of configurations and initial values in files that exist depend on it.
  EXPECT_EQ(hash_text_in_hex(""), "f52a15e9a9b5e89b");
  EXPECT_EQ(hash_text_in_hex("lm_head.weight"), "2a21476cd5f3c84d");
  EXPECT_NE(hash_text(""), hash_text(std::string_view("\0", 1)));
  std::set<std::uint64_t> hashes;
  for (int number = 0; number < 1000; ++number) hashes.insert(hash_text("model.layers." + std::to_string(number)));
  EXPECT_EQ(hashes.size(), 1000u);
}

}  // namespace
}  // namespace lmhead
