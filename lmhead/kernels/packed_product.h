// Products of bfloat16 matrices by oneDNN's micro-kernels: float32 sums, no allocation, one thread.
#pragma once

#include <cstdint>

#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {

/// Whether this build and this machine have the micro-kernels: x86 with bfloat16 instructions, AMX included, of which
/// neither ATEN_CPU_CAPABILITY nor `torch.backends.mkldnn` takes anything away.
bool has_packed_product();

/// A right factor [k, n] lies in panels of 64 columns; in a panel, rows 2 i and 2 i + 1 are side by side, number by
/// number. Numbers of bfloat16 that this takes.
std::int64_t packed_size(std::int64_t k, std::int64_t n);
/// Packs b [k, n]; where k is odd, a row of zeros follows.
void pack_rows(std::int64_t k, std::int64_t n, const vector::Bfloat16* b, std::int64_t ldb, vector::Bfloat16* packed);
/// Packs b^T of b [n, k]. k and ldb are even, and b begins at an even address of numbers.
void pack_turned(std::int64_t k, std::int64_t n, const vector::Bfloat16* b, std::int64_t ldb, vector::Bfloat16* packed);

/// c [m, n] = a [m, k] b, or that added to c where `add`; b [k, n] is packed, k is even, `lda` and `ldc` are the
/// distances between rows. Sums run over k in order, what c held first.
void packed_product(std::int64_t m, std::int64_t n, std::int64_t k, const vector::Bfloat16* a, std::int64_t lda,
                    const vector::Bfloat16* packed, float* c, std::int64_t ldc, bool add);
/// Gives back what the micro-kernels hold of the processor (AMX's tiles); a thread's last call.
void end_packed_products();

}  // namespace lmhead
