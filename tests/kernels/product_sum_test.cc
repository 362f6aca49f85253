// Products add up as they would in a wide sum, whether or not the device accumulates inside them.
#include "lmhead/kernels/product_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/kernels/cross_entropy_problem.h"
#include "tests/support/devices.h"

namespace lmhead {
namespace {

using namespace test;

/// The sum over three parts of rows, brought to the CPU, and the largest error that it may have.
struct Sum {
  at::Tensor got, exact;
};
Sum sum_of_parts(c10::Device device, at::ScalarType type, at::ScalarType sum_type) {
  RandomStream random(71, "product sum");
  at::Tensor sum, exact = at::zeros({7, 5}, at::kDouble);
  for (int part = 0; part < 3; ++part) {
    const at::Tensor left = normal({11, 7}, random).to(type).to(device),
                     right = normal({11, 5}, random).to(type).to(device);
    add_product(sum, left.t(), right, sum_type);
    exact += at::mm(left.cpu().t().to(at::kDouble), right.cpu().to(at::kDouble));
  }
  EXPECT_EQ(sum.scalar_type(), sum_type);
  EXPECT_EQ(sum.device(), device);
  return {sum.cpu().to(at::kDouble), exact};
}
double error_of(const Sum& sum) { return (sum.got - sum.exact).abs().max().item<double>(); }

TEST(ProductSum, IsTheSumInItsOwnType) {
  std::vector<c10::Device> devices = other_devices();
  devices.emplace_back(c10::DeviceType::CPU);
  for (const c10::Device device : devices) {
    EXPECT_LT(error_of(sum_of_parts(device, at::kDouble, at::kDouble)), 1e-13) << device;
    EXPECT_LT(error_of(sum_of_parts(device, at::kFloat, at::kFloat)), device.is_cuda() ? 0.05 : 2e-5) << device;
  }
}

/// Sums of numbers up to 20: eight bits leave products 2^-9 x 20 of error, a sum inside the product next to none.
TEST(ProductSum, OfSixteenBitsAccumulatesWhereTheDeviceCan) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    for (const c10::Device device : other_devices())
      EXPECT_LT(error_of(sum_of_parts(device, type, at::kFloat)), 2e-5) << device << type;
    const double rounded = error_of(sum_of_parts(c10::Device(c10::DeviceType::CPU), type, at::kFloat));
    EXPECT_GT(rounded, 1e-4);  // or this test could not see the difference
    EXPECT_LT(rounded, type == at::kHalf ? 0.02 : 0.15);
  }
}

}  // namespace
}  // namespace lmhead
