#include "lmhead/kernels/gram.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tril.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

using Add = void (*)(const at::Tensor&, const at::Tensor&);

at::Tensor lower(Add add, const at::Tensor& rows) {
  const at::Tensor sum = at::full({rows.size(1), rows.size(1)}, 2.0, at::kDouble);
  add(rows, sum);
  return at::tril(sum - 2.0);
}

/// |sum - 2 - exact| is at most what count + 2 additions in float64 can err.
void expect_gram(Add add, const at::Tensor& rows) {
  const at::Tensor wide = rows.to(at::kDouble), exact = at::tril(at::matmul(wide.t(), wide));
  const at::Tensor most = (at::matmul(wide.abs().t(), wide.abs()) + 4.0) * (double(rows.size(0) + 2) * 2.3e-16);
  EXPECT_TRUE(((lower(add, rows) - exact).abs() <= most).all().item<bool>()) << rows.scalar_type() << rows.sizes();
}

TEST(Gram, IsThatOfTheRowsWhateverTheirTypeAndLayout) {
  for (const auto& [count, width] :
       {std::pair<std::int64_t, std::int64_t>{0, 5}, {1, 1}, {3, 7}, {255, 24}, {256, 25}, {257, 96}, {700, 131}})
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
      const at::Tensor rows = at::randn({count, width}, at::kFloat).to(type);
      for (const Add add : {add_gram, plain_add_gram}) {
        expect_gram(add, rows);
        expect_gram(add, rows.t().contiguous().t());
        expect_gram(add, at::randn({count, 2 * width}, at::kFloat).to(type).narrow(1, width / 2, width));
      }
    }
}

TEST(Gram, HasTheSameBitsOnAnyNumberOfThreads) {
  const at::Tensor rows = at::randn({600, 200});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = lower(add_gram, rows);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(lower(add_gram, rows), one));
  at::set_num_threads(before);
}

TEST(Gram, RefusesWhatDoesNotFit) {
  EXPECT_THROW(add_gram(at::zeros({4, 3}), at::zeros({3, 3})), Error);  // float32 sums
  EXPECT_THROW(add_gram(at::zeros({4, 3}), at::zeros({4, 4}, at::kDouble)), Error);
  EXPECT_THROW(add_gram(at::zeros({4, 3}, at::kLong), at::zeros({3, 3}, at::kDouble)), Error);
}

}  // namespace
}  // namespace lmhead
