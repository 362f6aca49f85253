// Matrices turned and packed as micro-kernels read them. See row_kernels.h for what each operation means.
#pragma once

#include <cstring>

#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define LMHEAD_HAS_SHUFFLES
#endif
#endif

/// 16 x 16 numbers of 32 bits.
inline void turn_square(const std::uint32_t* in, std::int64_t in_stride, std::uint32_t* out, std::int64_t out_stride) {
#ifdef LMHEAD_HAS_SHUFFLES
  using Line = std::uint32_t __attribute__((vector_size(64)));
  Line rows[16], pairs[16];
  for (int i = 0; i < 16; ++i) std::memcpy(&rows[i], in + i * in_stride, sizeof(Line));
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    pairs[i + 1] =
        __builtin_shufflevector(rows[i], rows[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  for (int i = 0; i < 16; i += 4) {  // column 4 q + j of these four rows, for each quarter q
    rows[i] = __builtin_shufflevector(pairs[i], pairs[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    rows[i + 1] =
        __builtin_shufflevector(pairs[i], pairs[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    rows[i + 2] =
        __builtin_shufflevector(pairs[i + 1], pairs[i + 3], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    rows[i + 3] =
        __builtin_shufflevector(pairs[i + 1], pairs[i + 3], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  // Quarters 0 and 2, or 1 and 3, of both.
#define LMHEAD_EVEN(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define LMHEAD_ODD(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
  for (int j = 0; j < 4; ++j) {
    const Line low_even = LMHEAD_EVEN(rows[j], rows[4 + j]), high_even = LMHEAD_EVEN(rows[8 + j], rows[12 + j]);
    const Line low_odd = LMHEAD_ODD(rows[j], rows[4 + j]), high_odd = LMHEAD_ODD(rows[8 + j], rows[12 + j]);
    const Line turned[] = {LMHEAD_EVEN(low_even, high_even), LMHEAD_EVEN(low_odd, high_odd),
                           LMHEAD_ODD(low_even, high_even), LMHEAD_ODD(low_odd, high_odd)};
    for (int q = 0; q < 4; ++q) std::memcpy(out + (4 * q + j) * out_stride, &turned[q], sizeof(Line));
  }
#undef LMHEAD_EVEN
#undef LMHEAD_ODD
#else
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) out[j * out_stride + i] = in[i * in_stride + j];
#endif
}

inline void turn(const std::uint32_t* in, std::int64_t rows, std::int64_t columns, std::int64_t in_stride,
                 std::uint32_t* out, std::int64_t out_stride) {
  const std::int64_t whole_rows = rows / 16 * 16, whole_columns = columns / 16 * 16;
  for (std::int64_t row = 0; row < whole_rows; row += 16)
    for (std::int64_t column = 0; column < whole_columns; column += 16)
      turn_square(in + row * in_stride + column, in_stride, out + column * out_stride + row, out_stride);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t column = row < whole_rows ? whole_columns : 0; column < columns; ++column)
      std::memcpy(out + column * out_stride + row, in + row * in_stride + column, sizeof(std::uint32_t));
}

inline void interleave(const Bfloat16* even, const Bfloat16* odd, std::int64_t size, std::uint32_t* pairs) {
  if (!odd) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) pairs[i] = even[i].bits;
    return;
  }
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) pairs[i] = std::uint32_t{even[i].bits} | std::uint32_t{odd[i].bits} << 16;
}

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
