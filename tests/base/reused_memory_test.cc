#include "lmhead/base/reused_memory.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cstdint>

namespace lmhead {
namespace {

constexpr std::int64_t kLarge = std::int64_t{5} << 20;  // bytes, of which several lie between the limits

TEST(ReusedMemory, ComesBackToTheNextThatFits) {
  const std::int64_t before = reused_memory_in_use();
  void* first = nullptr;
  {
    at::Tensor tensor = reused_memory(kLarge / 4, at::kFloat);
    tensor.fill_(1);  // every page is there
    EXPECT_EQ(tensor.sizes(), at::IntArrayRef({kLarge / 4}));
    EXPECT_EQ(tensor.scalar_type(), at::kFloat);
    EXPECT_EQ(reused_memory_in_use() - before, kLarge);
    first = tensor.data_ptr();
    const at::Tensor other = reused_memory(kLarge / 4, at::kFloat);
    EXPECT_NE(other.data_ptr(), first);
  }
  EXPECT_EQ(reused_memory_in_use(), before);
  at::Tensor again = reused_memory(kLarge / 8, at::kDouble), more = reused_memory(kLarge / 2, at::kBFloat16);
  EXPECT_TRUE(again.data_ptr() == first || more.data_ptr() == first);
  again.fill_(2), more.fill_(3);
  EXPECT_EQ(again.sum().item<double>(), 2.0 * (kLarge / 8));
}

TEST(ReusedMemory, IsNotTakenByWhatIsMuchSmallerOrLarger) {
  const void* large = reused_memory(16 * kLarge, at::kByte).data_ptr();
  const at::Tensor small = reused_memory(kLarge, at::kByte), larger = reused_memory(17 * kLarge, at::kByte);
  EXPECT_NE(small.data_ptr(), large);
  EXPECT_NE(larger.data_ptr(), large);
  EXPECT_EQ(reused_memory(0, at::kFloat).numel(), 0);
}

TEST(ReusedMemory, NothingWaitsWhileItIsRefused) {
  constexpr std::int64_t kSize = 11 * kLarge;  // of no other test
  const NoReusedMemory refused;
  {
    at::Tensor tensor = reused_memory(kSize, at::kByte);
    tensor.fill_(1);
  }
  const at::Tensor fresh = reused_memory(kSize, at::kByte);
  EXPECT_EQ(fresh.sum().item<std::int64_t>(), 0);  // pages of the system are clear
}

TEST(ReusedMemory, WhatWaitsIsReleasedByRequest) {
  constexpr std::int64_t kSize = 13 * kLarge;  // of no other test
  reused_memory(kSize, at::kByte).fill_(1);
  release_reused_memory();
  const at::Tensor fresh = reused_memory(kSize, at::kByte);
  EXPECT_EQ(fresh.sum().item<std::int64_t>(), 0);  // pages of the system are clear
}

TEST(ReusedMemory, SmallTensorsAreThoseOfTheAllocator) {
  const std::int64_t before = reused_memory_in_use();
  const at::Tensor tensor = reused_memory(1000, at::kFloat);
  EXPECT_EQ(tensor.numel(), 1000);
  EXPECT_EQ(reused_memory_in_use(), before);
}

}  // namespace
}  // namespace lmhead
