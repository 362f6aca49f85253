// Products of row-major float32 matrices by oneDNN's micro-kernels, without allocation, on one thread.
#pragma once

#include <cstdint>

namespace lmhead {

/// Whether this build has the micro-kernels.
bool has_row_major_product();

/// Whether this machine has AVX-512 and neither ATEN_CPU_CAPABILITY nor `torch.backends.mkldnn` takes it from oneDNN.
bool may_use_avx512();

/// c [m, n] = a [m, k] b [k, n], or that added to c where `add`; `lda`, `ldb` and `ldc` are the distances between rows.
/// Sums run over k in pieces of 512, in order.
void row_major_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t lda, const float* b,
                       std::int64_t ldb, float* c, std::int64_t ldc, bool add);

}  // namespace lmhead
