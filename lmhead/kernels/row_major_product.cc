#include "lmhead/kernels/row_major_product.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <string_view>

#include "lmhead/base/error.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

// Pieces that stay in the first two caches; measured, and flat around these.
constexpr std::int64_t kRows = 128, kColumns = 256, kDepth = 512;

}  // namespace

bool has_row_major_product() {
#if defined(CPUBLAS_BRGEMM_F32F32F32)
  return true;
#else
  return false;
#endif
}

bool may_use_avx512() {
  return std::string_view(vector::row_kernels().name) == "avx512" && at::globalContext().userEnabledMkldnn();
}

void row_major_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda, const float* b,
                       std::int64_t ldb, float* c, std::int64_t ldc, bool add) {
#if defined(CPUBLAS_BRGEMM_F32F32F32)
  for (std::int64_t depth = 0; depth < k; depth += kDepth)
    for (std::int64_t column = 0; column < n; column += kColumns)
      for (std::int64_t row = 0; row < m; row += kRows)
        at::native::cpublas::brgemm(std::min(kRows, m - row), std::min(kColumns, n - column),
                                    std::min(kDepth, k - depth), lda, ldb, ldc, add || depth > 0, a + row * lda + depth,
                                    b + depth * ldb + column, c + row * ldc + column);
#else
  require(false, "row_major_product", "this libtorch must have float32 micro-kernels");
#endif
}

}  // namespace lmhead
