#include "lmhead/kernels/packed_product.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/kernels/row_major_product.h"

namespace lmhead {
namespace {

using vector::Bfloat16;

constexpr std::int64_t kPanel = 64;
// Pieces that stay in the first two caches; measured, and flat around these.
constexpr std::int64_t kRows = 128, kDepth = 512;

std::int64_t rounded_up_to_even(std::int64_t k) { return k + k % 2; }

std::uint32_t* pairs_of(Bfloat16* packed) { return reinterpret_cast<std::uint32_t*>(packed); }

}  // namespace

bool has_packed_product() {
#if defined(CPUBLAS_BRGEMM_BF16BF16F32) && defined(LMHEAD_VECTOR_X86)
  static const bool has_instructions = __builtin_cpu_supports("avx512bf16");
  return has_instructions && may_use_avx512();
#else
  return false;
#endif
}

std::int64_t packed_size(std::int64_t k, std::int64_t n) {
  return rounded_up_to_even(k) * ((n + kPanel - 1) / kPanel * kPanel);
}

void pack_rows(std::int64_t k, std::int64_t n, const Bfloat16* b, std::int64_t ldb, Bfloat16* packed) {
  const vector::PackingKernels& kernels = vector::row_kernels().packing;
  const std::int64_t panel_size = rounded_up_to_even(k) * kPanel;
  for (std::int64_t row = 0; row < k; row += 2) {
    const Bfloat16 *even = b + row * ldb, *odd = row + 1 < k ? even + ldb : nullptr;
    for (std::int64_t column = 0; column < n; column += kPanel)
      kernels.interleave(even + column, odd ? odd + column : nullptr, std::min(kPanel, n - column),
                         pairs_of(packed + column / kPanel * panel_size + row * kPanel));
  }
}

void pack_turned(std::int64_t k, std::int64_t n, const Bfloat16* b, std::int64_t ldb, Bfloat16* packed) {
  const vector::PackingKernels& kernels = vector::row_kernels().packing;
  for (std::int64_t column = 0; column < n; column += kPanel)
    kernels.turn(reinterpret_cast<const std::uint32_t*>(b + column * ldb), std::min(kPanel, n - column), k / 2, ldb / 2,
                 pairs_of(packed + column * k), kPanel);
}

void packed_product(std::int64_t m, std::int64_t n, std::int64_t k, const Bfloat16* a, std::int64_t lda,
                    const Bfloat16* packed, float* c, std::int64_t ldc, bool add) {
#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
  const auto* left = reinterpret_cast<const at::BFloat16*>(a);
  const auto* right = reinterpret_cast<const at::BFloat16*>(packed);
  for (std::int64_t row = 0; row < m; row += kRows)
    for (std::int64_t column = 0; column < n; column += kPanel)
      for (std::int64_t depth = 0; depth < k; depth += kDepth)
        at::native::cpublas::brgemm(std::min(kRows, m - row), std::min(kPanel, n - column), std::min(kDepth, k - depth),
                                    lda, kPanel, ldc, add || depth > 0, left + row * lda + depth,
                                    right + column * k + depth * kPanel, c + row * ldc + column, /*is_vnni=*/true);
#else
  require(false, "packed_product", "this libtorch must have bfloat16 micro-kernels");
#endif
}

void end_packed_products() {
#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
  at::native::cpublas::brgemm_release(/*is_vnni=*/true);
#endif
}

}  // namespace lmhead
