#include "lmhead/kernels/packed_product.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/logit_tiling.h"

namespace lmhead {
namespace {

using vector::Bfloat16;

Bfloat16* numbers_of(const at::Tensor& tensor) { return static_cast<Bfloat16*>(tensor.mutable_data_ptr()); }

TEST(Packing, TurnsMatricesOfAnyShape) {
  for (const auto& [rows, columns] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {16, 16}, {17, 33}, {5, 64}, {70, 3}}) {
    const std::int64_t in_stride = columns + 3, out_stride = rows + 5;
    std::vector<std::uint32_t> in(rows * in_stride), out(columns * out_stride, 7);
    std::iota(in.begin(), in.end(), 100);
    vector::row_kernels().packing.turn(in.data(), rows, columns, in_stride, out.data(), out_stride);
    for (std::int64_t column = 0; column < columns; ++column)
      for (std::int64_t row = 0; row < out_stride; ++row)
        ASSERT_EQ(out[column * out_stride + row], row < rows ? in[row * in_stride + column] : 7u)
            << row << ' ' << column;
  }
}

TEST(Packing, BothWaysGiveTheSameAndAnOddRowIsFollowedByZeros) {
  const std::int64_t k = 34, n = 70;
  const at::Tensor factor = at::randn({k, n}).to(at::kBFloat16), turned = factor.t().contiguous();
  const at::Tensor one = at::zeros({packed_size(k, n)}, at::kBFloat16), other = one.clone();
  pack_rows(k, n, numbers_of(factor), n, numbers_of(one));
  pack_turned(k, n, numbers_of(turned), k, numbers_of(other));
  EXPECT_TRUE(at::equal(one, other));
  const at::Tensor odd = at::zeros(one.sizes(), at::kBFloat16), padded = factor.clone();
  padded.select(0, k - 1).zero_();
  pack_rows(k - 1, n, numbers_of(factor), n, numbers_of(odd));
  pack_rows(k, n, numbers_of(padded), n, numbers_of(one));
  EXPECT_TRUE(at::equal(one, odd));
}

TEST(PackedProduct, IsTheProductInFloat32) {
  if (!has_packed_product()) GTEST_SKIP() << "no bfloat16 instructions";
  for (const auto& [m, n, k] :
       {std::tuple<std::int64_t, std::int64_t, std::int64_t>{1, 1, 2}, {130, 65, 514}, {64, 200, 1030}}) {
    const at::Tensor left = at::randn({m, k}).to(at::kBFloat16), right = at::randn({k, n}).to(at::kBFloat16);
    const at::Tensor packed = at::empty({packed_size(k, n)}, at::kBFloat16), sum = at::full({m, n + 3}, 5.0f);
    pack_rows(k, n, numbers_of(right), n, numbers_of(packed));
    const at::Tensor exact = at::matmul(left.to(at::kDouble), right.to(at::kDouble));
    const at::Tensor sizes = at::matmul(left.to(at::kDouble).abs(), right.to(at::kDouble).abs());
    for (const bool add : {false, true}) {
      packed_product(m, n, k, numbers_of(left), k, numbers_of(packed), sum.mutable_data_ptr<float>(), n + 3, add);
      const at::Tensor error = (sum.narrow(1, 0, n).to(at::kDouble) - exact * (add ? 2 : 1)).abs();
      // Two chains of at most 1,030 additions in float32.
      EXPECT_TRUE((error <= sizes * (k * 1.2e-7 * (add ? 2 : 1))).all().item<bool>()) << m << ' ' << n << ' ' << k;
    }
    EXPECT_TRUE((sum.narrow(1, n, 3) == 5).all().item<bool>());
  }
  end_packed_products();
}

/// Loss and both gradients in a mode.
std::vector<at::Tensor> step(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                             LinearCrossEntropyMode mode) {
  const at::Tensor features = hidden.detach().requires_grad_(), rows = weight.detach().requires_grad_();
  LinearCrossEntropyOptions options;
  options.mode = mode;
  const at::Tensor loss = linear_cross_entropy(features, {rows}, targets, options);
  loss.backward();
  return {loss.detach(), features.grad(), rows.grad()};
}

TEST(PackedProduct, LogitsThatAreKeptOrFormedAgainGiveTheSameBits) {
  if (!has_packed_product()) GTEST_SKIP() << "no bfloat16 instructions";
  at::set_num_threads(2);
  const std::int64_t rows = 700, width = 258, vocab_size = 140001;
  LogitPass pass;
  pass.hidden = at::randn({rows, width}).to(at::kBFloat16);
  pass.map.weight = (at::randn({vocab_size, width}) / 16).to(at::kBFloat16);
  pass.wants_hidden = pass.wants_weight = true;
  const LogitTiling tiling = tiling_of(pass, /*keeps_logits=*/true);
  std::int64_t in_gradient = 0, kept = 0, again = 0;
  for (const LogitTiling::Kept& tile : tiling.kept) ++(tile.offset < 0 ? again : tile.in_gradient ? in_gradient : kept);
  ASSERT_TRUE(in_gradient > 0 && kept > 0 && again > 0);  // the shape is chosen for it
  const at::Tensor targets = at::randint(vocab_size, {rows});
  const auto fast = step(pass.hidden, pass.map.weight, targets, LinearCrossEntropyMode::kFast);
  const auto small = step(pass.hidden, pass.map.weight, targets, LinearCrossEntropyMode::kSmall);
  for (std::size_t i = 0; i < fast.size(); ++i) EXPECT_TRUE(at::equal(fast[i], small[i])) << i;
}

TEST(PackedProduct, IsLeftAloneWhereOneDnnIsSwitchedOff) {
  const bool before = at::globalContext().userEnabledMkldnn();
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_FALSE(has_packed_product());
  const at::Tensor hidden = at::randn({80, 64}).to(at::kBFloat16), weight = at::randn({100, 64}).to(at::kBFloat16);
  const auto plain = step(hidden, weight, at::randint(100, {80}), LinearCrossEntropyMode::kFast);
  EXPECT_TRUE(plain[2].isfinite().all().item<bool>());
  const auto wide =
      step(hidden.to(at::kFloat), weight.to(at::kFloat), at::randint(100, {80}), LinearCrossEntropyMode::kFast);
  EXPECT_TRUE(wide[2].isfinite().all().item<bool>());
  at::globalContext().setUserEnabledMkldnn(before);
}

}  // namespace
}  // namespace lmhead
