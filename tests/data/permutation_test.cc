#include "lmhead/data/permutation.h"

#include <cmath>

#include "data_fixtures.h"

namespace lmhead {
namespace {

TEST(KeyedPermutation, IsABijectionOfEverySize) {
  for (std::uint64_t size : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4095, 4096, 4097, 70000}) {
    const KeyedPermutation permutation(7, "test", 3, size);
    std::vector<bool> hit(size);
    for (std::uint64_t position = 0; position < size; ++position) {
      const std::uint64_t image = permutation(position);
      ASSERT_LT(image, size);
      ASSERT_FALSE(hit[image]) << "size " << size << " position " << position;
      hit[image] = true;
    }
  }
}

TEST(KeyedPermutation, WorksOnSizesThatNoMemoryHolds) {
  const std::uint64_t size = (std::uint64_t(1) << 62) - 5;
  const KeyedPermutation permutation(7, "test", 0, size);
  EXPECT_LT(permutation(size - 1), size);
  EXPECT_NE(permutation(0), permutation(1));
  EXPECT_ERROR(KeyedPermutation(7, "test", 0, 0), "got 0");
}

TEST(KeyedPermutation, SendsEveryPositionEverywhereEquallyOften) {
  // Over many keys each of the 5 x 5 (position, image) pairs is binomial(n, 1/5); the bound is five standard
  // deviations.
  constexpr int kKeys = 20000;
  int counts[5][5] = {};
  for (int key = 0; key < kKeys; ++key) {
    const KeyedPermutation permutation(11, "test", std::uint64_t(key), 5);
    for (std::uint64_t position = 0; position < 5; ++position) ++counts[position][permutation(position)];
  }
  for (const auto& row : counts)
    for (const int count : row) EXPECT_NEAR(count, kKeys / 5.0, 5 * std::sqrt(kKeys * 0.2 * 0.8));
}

TEST(KeyedPermutation, DependsOnSeedNameAndIndex) {
  const auto images = [](std::uint64_t seed, const char* name, std::uint64_t index) {
    const KeyedPermutation permutation(seed, name, index, 1000);
    std::vector<std::uint64_t> result;
    for (std::uint64_t position = 0; position < 20; ++position) result.push_back(permutation(position));
    return result;
  };
  const auto base = images(1, "a", 0);
  EXPECT_EQ(base, images(1, "a", 0));
  EXPECT_NE(base, images(2, "a", 0));
  EXPECT_NE(base, images(1, "b", 0));
  EXPECT_NE(base, images(1, "a", 1));
}

}  // namespace
}  // namespace lmhead
