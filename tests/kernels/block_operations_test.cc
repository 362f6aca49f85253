#include "lmhead/kernels/block_operations.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lmhead/base/error.h"
#include "tests/kernels/agreement.h"

namespace lmhead {
namespace {

using test::expect_as_good_as_plain;
constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kBFloat16};

/// Output and gradients of `function` for copies of `inputs`, under a given upstream gradient.
template <class Function>
std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, at::ScalarType type, const at::Tensor& upstream,
                            const Function& function, bool transposed) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) {
    at::Tensor leaf = input.to(type, false, true);
    if (transposed && leaf.dim() > 1) leaf = leaf.transpose(0, 1).contiguous().transpose(0, 1);
    leaves.push_back(leaf.requires_grad_());
  }
  const at::Tensor output = function(leaves);
  (output * upstream.to(output.scalar_type())).sum().backward();
  std::vector<at::Tensor> results{output.detach()};
  for (const at::Tensor& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

template <class Fast, class Plain>
void expect_agreement(const std::vector<at::Tensor>& given, at::ScalarType type, const at::Tensor& upstream,
                      const Fast& fast, const Plain& plain, const std::string& what, double scale = 0) {
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& input : given) inputs.push_back(input.to(type).to(at::kDouble));
  const at::Tensor above = upstream.to(type).to(at::kDouble);
  const auto exact = run(inputs, at::kDouble, above, plain, false);
  const auto own = run(inputs, type, above, plain, false);
  for (const bool transposed : {false, true}) {
    const auto results = run(inputs, type, above, fast, transposed);
    for (std::size_t i = 0; i < exact.size(); ++i)
      expect_as_good_as_plain(results[i], own[i], exact[i], type, scale, what + " result " + std::to_string(i));
  }
}

TEST(RmsNorm, IsAsExactAsPlain) {
  for (const std::int64_t width : {1, 7, 16, 33, 640}) {
    for (const std::int64_t rows : {1, 3, 130}) {
      for (const at::ScalarType type : kTypes) {
        const auto output_type = [&](const std::vector<at::Tensor>& x) { return x[0].scalar_type(); };
        const at::Tensor input = at::randn({rows, width}, at::kDouble) + 0.5;
        const at::Tensor weight = at::rand({width}, at::kDouble) + 0.5,
                         upstream = at::randn({rows, width}, at::kDouble);
        // For width 1 the input's gradient is a difference of two numbers of this size.
        const double scale = (upstream * weight / (input.square().mean(-1, true) + 1e-5).sqrt()).norm().item<double>();
        expect_agreement(
            {input, weight}, type, upstream, [&](const auto& x) { return rms_norm(x[0], x[1], 1e-5, output_type(x)); },
            [&](const auto& x) { return plain_rms_norm(x[0], x[1], 1e-5, output_type(x)); },
            "width " + std::to_string(width), scale);
      }
    }
  }
}

TEST(RmsNorm, ReturnsTheTypeThatIsAskedForWithAFloat32Gain) {
  for (const at::ScalarType in : {at::kFloat, at::kBFloat16}) {
    for (const at::ScalarType out : {at::kFloat, at::kBFloat16}) {
      const at::Tensor input = at::randn({5, 40}).to(in).requires_grad_(), weight = at::rand({40}).requires_grad_();
      const at::Tensor output = rms_norm(input, weight, 1e-6, out);
      EXPECT_EQ(output.scalar_type(), out);
      const at::Tensor upstream = at::randn({5, 40}).to(out);
      (output * upstream).sum().backward();
      const at::Tensor d_input = input.grad().clone(), d_weight = weight.grad().clone();
      EXPECT_EQ(d_input.scalar_type(), in);
      EXPECT_EQ(d_weight.scalar_type(), at::kFloat);
      input.mutable_grad().reset(), weight.mutable_grad().reset();
      const at::Tensor plain = plain_rms_norm(input, weight, 1e-6, out);
      (plain * upstream).sum().backward();
      EXPECT_TRUE(output.to(at::kFloat).allclose(plain.to(at::kFloat), 1e-2, 1e-5));
      EXPECT_TRUE(d_input.to(at::kFloat).allclose(input.grad().to(at::kFloat), 1e-2, 1e-2));
      EXPECT_TRUE(d_weight.allclose(weight.grad(), 1e-2, 1e-3));
    }
  }
}

TEST(RmsNorm, TheSameThreadCountGivesTheSameBits) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const at::Tensor input = at::randn({700, 96}), upstream = at::randn({700, 96});
  const auto gain_gradient = [&] {
    const at::Tensor weight = at::ones({96}).requires_grad_();
    (rms_norm(input, weight, 1e-5, at::kFloat) * upstream).sum().backward();
    return weight.grad();
  };
  EXPECT_TRUE(gain_gradient().equal(gain_gradient()));
  at::set_num_threads(threads);
}

TEST(Swiglu, IsAsExactAsPlainAlsoWhereTheGateSaturates) {
  for (const std::int64_t width : {1, 15, 16, 17, 400}) {
    for (const double scale : {1.0, 60.0}) {
      for (const at::ScalarType type : kTypes) {
        expect_agreement(
            {at::randn({9, 2 * width}, at::kDouble) * scale}, type, at::randn({9, width}, at::kDouble),
            [](const auto& x) { return swiglu(x[0]); }, [](const auto& x) { return plain_swiglu(x[0]); },
            "width " + std::to_string(width));
      }
    }
  }
}

TEST(Rotary, IsAsExactAsPlainAndLeavesTheRestAlone) {
  for (const std::int64_t half : {1, 4, 9}) {
    for (const std::int64_t heads : {0, 2, 5}) {
      for (const at::ScalarType type : kTypes) {
        const at::Tensor angle = at::rand({6, half}, at::kDouble) * 6;
        // Angles are float32 in a model; plain casts them to the type of the features.
        const at::Tensor cosine = at::cos(angle).to(type).to(at::kDouble),
                         sine = at::sin(angle).to(type).to(at::kDouble);
        expect_agreement(
            {at::randn({3, 6, 5, 18}, at::kDouble)}, type, at::randn({3, 6, 5, 18}, at::kDouble),
            [&](const auto& x) { return rotary(x[0], cosine, sine, heads); },
            [&](const auto& x) { return plain_rotary(x[0], cosine, sine, heads); },
            "half " + std::to_string(half) + " heads " + std::to_string(heads));
      }
    }
  }
}

TEST(BlockOperations, RefuseWhatDoesNotFit) {
  EXPECT_THROW(rms_norm(at::ones({2, 3}), at::ones({4}), 1e-5, at::kFloat), Error);
  EXPECT_THROW(swiglu(at::ones({2, 3})), Error);
  EXPECT_THROW(rotary(at::ones({1, 2, 3, 4}), at::ones({2, 3}), at::ones({2, 3}), 1), Error);
  EXPECT_THROW(rotary(at::ones({1, 2, 3, 4}), at::ones({2, 2}), at::ones({2, 2}), 4), Error);
}

TEST(BlockOperations, TakeEmptyBatches) {
  EXPECT_EQ(rms_norm(at::zeros({0, 4}), at::ones({4}), 1e-5, at::kFloat).numel(), 0);
  EXPECT_EQ(swiglu(at::zeros({0, 4})).numel(), 0);
  EXPECT_EQ(rotary(at::zeros({0, 2, 3, 4}), at::ones({2, 2}), at::ones({2, 2}), 3).numel(), 0);
}

}  // namespace
}  // namespace lmhead
