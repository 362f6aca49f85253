// Gram matrices in float64, from panels of columns. See row_kernels.h for what each operation means.
#pragma once

#include <cstring>

#include "lmhead/kernels/vector/elementary.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

// As many sums as leave registers for a row of a panel and one number of another.
#if defined(__AVX512F__)
inline constexpr int kGramRows = 8, kGramColumns = 24, kGramLanes = 8;
#elif defined(__AVX2__)
inline constexpr int kGramRows = 4, kGramColumns = 12, kGramLanes = 4;
#else
inline constexpr int kGramRows = 4, kGramColumns = 4, kGramLanes = 2;
#endif

template <class T>
void pack_gram_panel(const T* rows, std::int64_t count, std::int64_t stride, std::int64_t columns, double* panel) {
  for (std::int64_t row = 0; row < count; ++row, rows += stride, panel += kGramColumns)
    for (int column = 0; column < kGramColumns; ++column)
      panel[column] = column < columns ? double(load(rows[column])) : 0.0;
}

/// Every loop over sums is unrolled, or they would lie in memory.
inline void multiply_gram_panels(const double* left, const double* right, std::int64_t count, double* products) {
  using Lanes = double __attribute__((vector_size(kGramLanes * sizeof(double))));
  constexpr int kPieces = kGramColumns / kGramLanes;
  Lanes sums[kGramRows][kPieces] = {};
  for (std::int64_t row = 0; row < count; ++row, left += kGramColumns, right += kGramColumns) {
    Lanes of_right[kPieces];
#pragma GCC unroll 3
    for (int piece = 0; piece < kPieces; ++piece)
      std::memcpy(&of_right[piece], right + piece * kGramLanes, sizeof(Lanes));
#pragma GCC unroll 8
    for (int i = 0; i < kGramRows; ++i)
#pragma GCC unroll 3
      for (int piece = 0; piece < kPieces; ++piece) sums[i][piece] += left[i] * of_right[piece];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kGramRows; ++i)
#pragma GCC unroll 3
    for (int piece = 0; piece < kPieces; ++piece) {
      const Lanes sum = sums[i][piece];
      std::memcpy(products + i * kGramColumns + piece * kGramLanes, &sum, sizeof(Lanes));
    }
}

inline constexpr GramKernels kGramKernels = {
    kGramRows,           kGramColumns, pack_gram_panel<float>, pack_gram_panel<double>, pack_gram_panel<Bfloat16>,
    multiply_gram_panels};

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
