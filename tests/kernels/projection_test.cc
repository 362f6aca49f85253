#include "lmhead/kernels/projection.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace lmhead {
namespace {

/// |given - exact| is at most what k additions in float32 can err.
void expect_product(const at::Tensor& given, const at::Tensor& left, const at::Tensor& right) {
  const at::Tensor a = left.to(at::kDouble), b = right.to(at::kDouble);
  const at::Tensor error = (given.to(at::kDouble) - at::matmul(a, b)).abs();
  EXPECT_TRUE((error <= at::matmul(a.abs(), b.abs()) * (double(left.size(1)) * 6e-8)).all().item<bool>())
      << left.sizes() << right.sizes();
}

TEST(MatrixProduct, TakesFactorsThatAreTurnedOrNot) {
  for (const auto& [m, k, n] : {std::tuple<std::int64_t, std::int64_t, std::int64_t>{64, 1, 1},
                                {100, 33, 257},
                                {300, 1030, 70},
                                {65, 64, 700},
                                {7, 20, 30}}) {
    const at::Tensor left = at::randn({m, k}), right = at::randn({k, n});
    const at::Tensor turned_left = left.t().contiguous().t(), turned_right = right.t().contiguous().t();
    for (const at::Tensor& a : {left, turned_left})
      for (const at::Tensor& b : {right, turned_right}) expect_product(matrix_product(a, b), left, right);
  }
}

TEST(MatrixProduct, HasTheSameBitsOnAnyNumberOfThreads) {
  const at::Tensor left = at::randn({96, 1200}), right = at::randn({1200, 777}), tall = at::randn({1000, 1200});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = matrix_product(left, right), tall_one = matrix_product(tall, right);
  at::set_num_threads(3);
  EXPECT_TRUE(!prefers_row_major_product() || at::equal(matrix_product(left, right), one));
  EXPECT_TRUE(!prefers_row_major_product() || at::equal(matrix_product(tall, right), tall_one));
  at::set_num_threads(before);
}

TEST(Projection, GradientsAreThoseOfLinearInFloat64) {
  for (const bool has_bias : {false, true}) {
    const at::Tensor input = at::randn({3, 50, 40}).requires_grad_(), weight = at::randn({90, 40}).requires_grad_();
    const at::Tensor bias = has_bias ? at::randn({90}).requires_grad_() : at::Tensor();
    const at::Tensor upstream = at::randn({3, 50, 90});
    const at::Tensor output = projection(input, weight, bias);
    output.backward(upstream);
    std::vector<at::Tensor> exact;
    for (const at::Tensor& tensor : {input, weight, bias})
      exact.push_back(tensor.defined() ? tensor.detach().to(at::kDouble).requires_grad_() : tensor);
    const at::Tensor expected = plain_projection(exact[0], exact[1], exact[2]);
    expected.backward(upstream.to(at::kDouble));
    EXPECT_EQ(output.sizes(), expected.sizes());
    EXPECT_TRUE(
        output.to(at::kDouble).allclose(expected, 1e-5, 1e-4));  // sums of at most 150 products of normal numbers
    EXPECT_TRUE(input.grad().to(at::kDouble).allclose(exact[0].grad(), 1e-5, 1e-4));
    EXPECT_TRUE(weight.grad().to(at::kDouble).allclose(exact[1].grad(), 1e-5, 1e-4));
    if (has_bias) {
      EXPECT_TRUE(bias.grad().to(at::kDouble).allclose(exact[2].grad(), 1e-5, 1e-4));
    }
  }
}

TEST(Projection, MayBeDifferentiatedTwice) {
  const at::Tensor input = at::randn({70, 8}).requires_grad_(), weight = at::randn({6, 8}).requires_grad_();
  const at::Tensor first = torch::autograd::grad({projection(input, weight, {}).square().sum()}, {input}, {}, true,
                                                 /*create_graph=*/true)[0];
  const at::Tensor second = torch::autograd::grad({first.square().sum()}, {weight})[0];
  const at::Tensor x = input.detach().requires_grad_(), w = weight.detach().requires_grad_();
  const at::Tensor plain =
      torch::autograd::grad({at::linear(x, w).square().sum()}, {x}, {}, true, /*create_graph=*/true)[0];
  EXPECT_TRUE(second.allclose(torch::autograd::grad({plain.square().sum()}, {w})[0], 1e-4, 1e-3));
}

TEST(Projection, IsLinearItselfWhereItsProductsAreNot) {
  const at::Tensor input = at::randn({80, 16}), weight = at::randn({5, 16});
  EXPECT_TRUE(at::equal(projection(input.narrow(0, 0, 3), weight, {}), at::linear(input.narrow(0, 0, 3), weight)));
  const at::Tensor half = input.to(at::kBFloat16), of_half = weight.to(at::kBFloat16);
  EXPECT_TRUE(at::equal(projection(half, of_half, {}), at::linear(half, of_half)));
  const bool before = at::globalContext().userEnabledMkldnn();
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_TRUE(at::equal(projection(input, weight, {}), at::linear(input, weight)));
  at::globalContext().setUserEnabledMkldnn(before);
}

}  // namespace
}  // namespace lmhead
