// What stands for a tile of logit gradients whose two products are left out: what is a target's is added exactly, and
// for the rest the rank-one matrix with the same row and column sums.
//
// Most of a tile of rare words is the product of how much a token gives them together and how often each is given
// anything. That part adds up over rows, columns and tiles, while what remains scatters: leaving out both errs tens of
// times more.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {

template <class T, class Wide>
struct LeftOutTile {
  T* gradients;  // [rows, columns]; what is a target's is taken out of it
  std::int64_t rows, columns, width;
  const std::int64_t* targets;  // [rows]
  const RowFactors* factors;    // [rows]
  double limit;                 // share of a row's target factor: a target's p above it is added with the target
  std::int64_t first_id;        // of the tile's columns
  bool has_slope;               // of a soft-cap
  const T* weight;              // [columns, width]
  const T* hidden;              // [rows, width]
  Wide* d_hidden;               // [rows, width], added to; null where not wanted
  Wide* d_weight;               // [columns, width], added to; null where not wanted
  bool weight_is_turned;        // d_weight is [width, columns]

  /// Adds what stands for the tile and returns the sum of squares of what does not: the gradients of hidden and weight
  /// err by that matrix times weight and hidden. `scratch` is reused from call to call.
  double add(const vector::LogitKernels<T, Wide>& kernels, const vector::LogitKernels<Wide, Wide>& wide_kernels,
             std::vector<Wide>& scratch) const;

 private:
  void add_weight_row(const vector::LogitKernels<T, Wide>& kernels, const T* row, double scale,
                      std::int64_t column) const;
  void add_targets(const vector::LogitKernels<T, Wide>& kernels) const;
};

template <class T, class Wide>
void LeftOutTile<T, Wide>::add_weight_row(const vector::LogitKernels<T, Wide>& kernels, const T* row, double scale,
                                          std::int64_t column) const {
  if (!weight_is_turned) return kernels.add_scaled(row, width, scale, d_weight + column * width);
  for (std::int64_t index = 0; index < width; ++index)
    kernels.add_scaled(row + index, 1, scale, d_weight + index * columns + column);
}

template <class T, class Wide>
void LeftOutTile<T, Wide>::add_targets(const vector::LogitKernels<T, Wide>& kernels) const {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t column = targets[row] - first_id;
    if (column < 0 || column >= columns) continue;
    T& entry = gradients[row * columns + column];
    Wide whole;
    kernels.load(&entry, nullptr, 1, {}, &whole);
    // Like its neighbours a small p may stay, so that the tile keeps its rank; a soft-cap's slope hides what p is.
    const double target = factors[row].target, rest = static_cast<double>(whole) + target;
    const bool stays = !has_slope && std::abs(rest) <= limit * std::abs(target);
    const double taken = stays ? -target : static_cast<double>(whole);
    if (d_hidden) kernels.add_scaled(weight + column * width, width, taken, d_hidden + row * width);
    if (d_weight) add_weight_row(kernels, hidden + row * width, taken, column);
    const Wide left = stays ? static_cast<Wide>(rest) : Wide(0);
    kernels.store(&left, 1, &entry);
  }
}

template <class T, class Wide>
double LeftOutTile<T, Wide>::add(const vector::LogitKernels<T, Wide>& kernels,
                                 const vector::LogitKernels<Wide, Wide>& wide_kernels,
                                 std::vector<Wide>& scratch) const {
  add_targets(kernels);
  scratch.assign(static_cast<std::size_t>(2 * columns + rows + width), 0);
  Wide* line = scratch.data();
  Wide* of_columns = line + columns;
  Wide* of_rows = of_columns + columns;
  Wide* product = of_rows + rows;
  const auto loaded = [&](std::int64_t row) -> const Wide* {
    if constexpr (std::is_same_v<T, Wide>) return gradients + row * columns;
    kernels.load(gradients + row * columns, nullptr, columns, {}, line);
    return line;
  };

  double energy = 0, total = 0, row_square = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const vector::LineMoments moments = kernels.moments(loaded(row), columns, of_columns);
    energy += moments.square_sum;
    of_rows[row] = static_cast<Wide>(moments.sum);
    total += moments.sum;
    row_square += moments.sum * moments.sum;
  }
  double middle = 0;
  for (std::int64_t row = 0; row < rows; ++row)
    middle += static_cast<double>(of_rows[row]) * kernels.dot(loaded(row), of_columns, columns);
  const double column_square = kernels.dot(of_columns, of_columns, columns);
  const double rest = energy - 2 * middle / total + row_square * column_square / (total * total);
  if (!(rest < energy))
    return energy;  // signs that cancel, or nothing at all: no rank-one matrix does better than none

  if (d_hidden) {
    for (std::int64_t column = 0; column < columns; ++column)
      kernels.add_scaled(weight + column * width, width, of_columns[column], product);
    for (std::int64_t row = 0; row < rows; ++row)
      wide_kernels.add_scaled(product, width, of_rows[row] / total, d_hidden + row * width);
  }
  if (d_weight) {
    std::fill_n(product, width, Wide(0));
    for (std::int64_t row = 0; row < rows; ++row)
      kernels.add_scaled(hidden + row * width, width, of_rows[row], product);
    if (weight_is_turned) {
      for (std::int64_t index = 0; index < width; ++index)
        wide_kernels.add_scaled(of_columns, columns, product[index] / total, d_weight + index * columns);
    } else {
      for (std::int64_t column = 0; column < columns; ++column)
        wide_kernels.add_scaled(product, width, of_columns[column] / total, d_weight + column * width);
    }
  }
  return std::max(rest, 0.0);
}

}  // namespace lmhead
