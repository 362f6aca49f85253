// The stand-in device is as strict as a GPU, or what passes on it says nothing.
#include "tests/support/stand_in_device.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sort.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace lmhead::test {
namespace {

at::Tensor numbers() { return at::arange(12, at::kFloat).view({3, 4}).to(stand_in_device()); }

TEST(StandInDevice, ComputesAsTheCpuDoes) {
  const at::Tensor here = numbers(), there = here.cpu();
  EXPECT_EQ(here.device(), stand_in_device());
  EXPECT_TRUE(at::mm(here, here.t()).cpu().equal(at::mm(there, there.t())));
  EXPECT_TRUE(std::get<0>(at::sort(-here)).cpu().equal(std::get<0>(at::sort(-there))));
  at::Tensor leaf = here.clone().requires_grad_();
  (leaf.square() * here).sum().backward();
  EXPECT_EQ(leaf.grad().device(), stand_in_device());
  EXPECT_TRUE(leaf.grad().cpu().allclose(2 * there * there));
}

TEST(StandInDevice, ViewsShareMemoryAndResultsThatGrowArriveWhole) {
  at::Tensor here = numbers();
  here.slice(0, 1).select(1, 2).fill_(7);
  EXPECT_EQ(here.cpu()[2][2].item<double>(), 7);
  EXPECT_EQ(here.cpu()[0][2].item<double>(), 2);
  at::Tensor into = at::empty({0}, here.options());
  at::cat_out(into, {here, here});
  EXPECT_EQ(into.sizes(), (at::IntArrayRef{6, 4}));
  EXPECT_TRUE(into.cpu().equal(at::cat({here.cpu(), here.cpu()})));
}

TEST(StandInDevice, RefusesTensorsOfTheCpu) {
  const at::Tensor here = numbers();
  EXPECT_ANY_THROW(here + at::ones({3, 4}));
  EXPECT_ANY_THROW(at::mm(here, at::ones({4, 2})));
  EXPECT_ANY_THROW(here.index_select(0, at::arange(2)));
  EXPECT_TRUE((here + at::ones({})).cpu().equal(here.cpu() + 1));  // as on a GPU, one number may lie there
}

TEST(StandInDevice, AreTwoThatRefuseEachOther) {
  const at::Tensor first = numbers(), second = numbers().to(stand_in_device(1));
  EXPECT_EQ(second.device(), stand_in_device(1));
  EXPECT_EQ((second + 1).device(), stand_in_device(1));
  EXPECT_EQ(at::arange(3, second.options()).device(), stand_in_device(1));
  EXPECT_TRUE(second.cpu().equal(first.cpu()));
  EXPECT_ANY_THROW(first + second);
  EXPECT_EQ(at::ones({2}, at::TensorOptions(c10::Device("stand_in"))).device(), stand_in_device(0));
  EXPECT_EQ(*static_cast<float*>(memory_of_stand_in(first.select(0, 1).const_data_ptr())), 4);
  EXPECT_ANY_THROW(memory_of_stand_in(second.const_data_ptr()));  // not of the current device
  EXPECT_ANY_THROW(memory_of_stand_in(first.cpu().const_data_ptr()));
}

TEST(StandInDevice, CountsItsMemoryAndRunsOutOfIt) {
  const at::Tensor here = at::ones({1000}).to(stand_in_device());
  EXPECT_EQ(most_bytes_on_stand_in([&] { (here + 1).add_(1); }), 4000);
  EXPECT_EQ(most_bytes_on_stand_in([&] { EXPECT_EQ(((here + 1) * 2).numel(), 1000); }), 8000);
  const StandInMemory little(6000);
  const at::Tensor kept = here + 1;
  EXPECT_THROW(here + 1, c10::OutOfMemoryError);
  EXPECT_THROW(here.clone(), c10::OutOfMemoryError);
  EXPECT_NO_THROW(here.slice(0, 0, 500) + 1);
}

TEST(StandInDevice, SaysWhatMemoryItHas) {
  const at::Tensor here = at::ones({1000}).to(stand_in_device());
  const auto [free, whole] = at::getDeviceAllocator(stand_in_device().type())->getMemoryInfo(0);
  EXPECT_EQ(whole, std::size_t{8} << 30);
  EXPECT_LE(free, whole - 4000);
}

TEST(StandInDevice, AddsWideProductsAsCudaDoes) {
  const at::Tensor here = numbers().to(at::kBFloat16) / 3, factor = here.cpu().to(at::kFloat);
  at::Tensor sum = at::empty({3, 3}, here.options().dtype(at::kFloat));
  at::addmm_out(sum, sum, here, here.t(), at::kFloat, /*beta=*/0);
  EXPECT_TRUE(sum.cpu().equal(at::mm(factor, factor.t())));
  at::addmm_out(sum, sum, here, here.t(), at::kFloat);
  EXPECT_TRUE(sum.cpu().allclose(2 * at::mm(factor, factor.t())));
  EXPECT_ANY_THROW(at::addmm_out(sum, sum, numbers(), numbers().t(), at::kFloat));  // not of 16 bits
}

TEST(StandInDevice, IsLostInAForkedProcess) {
  const at::Tensor here = numbers();
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      (void)(here + 1);
    } catch (const c10::Error&) {
      ::_exit(7);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

TEST(StandInDevice, DrawsNothing) { EXPECT_ANY_THROW(at::randn({3}, at::TensorOptions(stand_in_device()))); }

TEST(StandInDevice, LacksWhatItIsSaidToLack) {
  const at::Tensor here = numbers();
  {
    const StandInWithout without("aten::mm");
    EXPECT_ANY_THROW(at::mm(here, here.t()));
  }
  EXPECT_NO_THROW(at::mm(here, here.t()));
}

TEST(StandInDevice, CountsWaits) {
  const at::Tensor here = numbers(), sum = here.sum();
  const std::int64_t before = stand_in_waits();
  const at::Tensor more = (here + sum).exp();
  EXPECT_EQ(stand_in_waits(), before);
  EXPECT_EQ(sum.item<double>(), 66);
  EXPECT_EQ(stand_in_waits(), before + 1);
  EXPECT_EQ(more.cpu().numel(), 12);
  EXPECT_EQ(stand_in_waits(), before + 2);
}

TEST(StandInDeviceDeathTest, EndsProgramsThatReadItsMemory) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        volatile float number = *numbers().const_data_ptr<float>();
        (void)number;
      },
      "");
}

}  // namespace
}  // namespace lmhead::test
