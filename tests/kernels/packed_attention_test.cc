#include "lmhead/kernels/packed_attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "lmhead/base/error.h"
#include "tests/kernels/agreement.h"

namespace lmhead {
namespace {

struct Results {
  at::Tensor output, d_projected;
};

template <class Function>
Results run(const Function& function, const at::Tensor& projected, std::int64_t heads, double scale,
            const at::Tensor& upstream) {
  const at::Tensor leaf = projected.detach().clone().requires_grad_();
  const at::Tensor output = function(leaf, heads, scale);
  output.backward(upstream.to(output.scalar_type()));
  return {output.detach(), leaf.grad()};
}

TEST(PackedAttention, IsAsExactAsPlain) {
  for (const std::int64_t length : {1, 3, 15, 16, 17, 64, 130})
    for (const std::int64_t width : {1, 6, 8, 16, 24, 33, 64})
      for (const auto& [heads, keys] :
           {std::pair<std::int64_t, std::int64_t>{3, 3}, std::pair<std::int64_t, std::int64_t>{4, 2},
            std::pair<std::int64_t, std::int64_t>{2, 1}}) {
        // Numbers that every type holds, so that one exact result serves all.
        const at::Tensor projected = at::randn({2, length, heads + 2 * keys, width}, at::kFloat).to(at::kBFloat16);
        const at::Tensor upstream = at::randn({2 * length, heads * width}, at::kFloat).to(at::kBFloat16);
        const double scale = 1.5 / std::sqrt(double(width));
        const auto exact =
            run(plain_packed_causal_attention, projected.to(at::kDouble), heads, scale, upstream.to(at::kDouble));
        const std::string what =
            std::to_string(length) + " x " + std::to_string(width) + ", " + std::to_string(heads) + " heads";
        for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
          const auto own = run(plain_packed_causal_attention, projected.to(type), heads, scale, upstream);
          const auto fast = run(packed_causal_attention, projected.to(type), heads, scale, upstream);
          EXPECT_EQ(fast.output.scalar_type(), type);
          EXPECT_EQ(fast.d_projected.scalar_type(), type);
          test::expect_as_good_as_plain(fast.output, own.output, exact.output, type, 0, what + " output");
          test::expect_as_good_as_plain(fast.d_projected, own.d_projected, exact.d_projected, type, 0,
                                        what + " gradient");
        }
      }
}

TEST(PackedAttention, AcceptsScoresOfAnySize) {
  for (const double size : {1e-20, 1e3, 1e6}) {
    const at::Tensor projected = at::randn({1, 40, 6, 8}, at::kFloat) * size,
                     upstream = at::randn({40, 16}, at::kFloat);
    const auto fast = run(packed_causal_attention, projected, 2, 1, upstream);
    EXPECT_TRUE(fast.output.isfinite().all().item<bool>()) << size;
    EXPECT_TRUE(fast.d_projected.isfinite().all().item<bool>()) << size;
  }
}

TEST(PackedAttention, GivesTheSameBitsForAnyThreadCountAndLayout) {
  const at::Tensor projected = at::randn({5, 70, 8, 12}, at::kFloat), upstream = at::randn({350, 48}, at::kFloat);
  const auto expected = run(packed_causal_attention, projected, 4, 1, upstream);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto alone =
      run(packed_causal_attention, projected.transpose(0, 1).contiguous().transpose(0, 1), 4, 1, upstream);
  at::set_num_threads(threads);
  EXPECT_TRUE(alone.output.equal(expected.output));
  EXPECT_TRUE(alone.d_projected.equal(expected.d_projected));
}

TEST(PackedAttention, RefusesHeadsThatDoNotFit) {
  EXPECT_THROW(packed_causal_attention(at::randn({1, 4, 7, 8}), 4, 1), Error);
  EXPECT_THROW(packed_causal_attention(at::randn({1, 4, 4, 8}), 4, 1), Error);
}

}  // namespace
}  // namespace lmhead
