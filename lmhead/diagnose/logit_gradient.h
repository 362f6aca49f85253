// The logit gradient of some tokens, a tile of the vocabulary at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "lmhead/kernels/linear_map.h"

namespace lmhead {

/// Rows d_t = d loss_t / d product_t of `hidden` [n, D] with `targets` [n]: p - y, times the slope of scale
/// and soft-cap. Computed in float64 where the weight is float64, else in float32. Memory: a tile, n x
/// tile_columns().
class LogitGradient {
 public:
  LogitGradient(const LinearMap& map, const at::Tensor& hidden, const at::Tensor& targets);

  /// Columns first, ..., first + count - 1: [n, count].
  at::Tensor tile(std::int64_t first, std::int64_t count) const { return of_product(product(first, count), first); }
  /// hidden W^T + b in those columns.
  at::Tensor product(std::int64_t first, std::int64_t count) const;
  /// The columns from `first` on of which that is the product.
  at::Tensor of_product(const at::Tensor& product, std::int64_t first) const;
  /// A width of tiles that keeps one within 128 MB of float32.
  std::int64_t tile_columns() const;

 private:
  LinearMap map_;
  at::ScalarType type_;
  at::Tensor hidden_, targets_;
  at::Tensor logsumexp_;  // [n, 1]
};

}  // namespace lmhead
