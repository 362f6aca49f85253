// The matrix products of one tile of logits: the logits, and what their gradient gives to features and weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/logit_tiling.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {

/// What sums of T are formed in.
template <class T>
using WideOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
const vector::LogitKernels<T, WideOf<T>>& logit_kernels() {
  if constexpr (std::is_same_v<T, double>) return vector::row_kernels().logits_double;
  else if constexpr (std::is_same_v<T, float>) return vector::row_kernels().logits_float;
  else return vector::row_kernels().logits_bfloat16;
}

/// What features and weight are multiplied by, and where products add up. One object serves all workers; a worker calls
/// with its own number.
template <class T>
class TileProducts {
 public:
  using Wide = WideOf<T>;

  TileProducts(const LogitPass& pass, const LogitTiling& tiling, at::ScalarType weight_sum_type);
  virtual ~TileProducts() = default;

  /// `made`, C times [rows, D], are the block's features where the pass itself has none.
  virtual void begin_block(const LogitBlock& block, const std::vector<at::Tensor>& made);
  /// `logits` [rows, columns] = features times the tile's weight, transposed: rows from `first` to the next multiple of
  /// rows_at_once(), a tile's first rows first.
  virtual void form_logits(const LogitBlock& block, std::int64_t tile, std::int64_t worker, std::int64_t first,
                           const at::Tensor& logits) = 0;
  virtual std::int64_t rows_at_once() const { return tiling_.rows; }
  /// Adds `gradient` [rows, columns] times the tile's weight to the worker's sum for the block's features.
  virtual void add_to_hidden(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                             const at::Tensor& gradient) = 0;
  /// Adds `gradient`, transposed, times features to the slot's sum for the tile's weight.
  virtual void add_to_weight(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                             const at::Tensor& gradient) = 0;
  /// A worker's last call before others go on.
  virtual void rest() const {}
  /// Whether a tile of the weight's sum is [D, columns] until the end.
  virtual bool weight_is_turned() const { return false; }

  /// The worker's sum [rows, D] for the features of the block at work, and whether it holds anything; `feature` says
  /// which of them.
  Wide* hidden_sum(std::int64_t worker, std::int64_t feature) {
    return hidden_sums_.template mutable_data_ptr<Wide>() +
           (worker * tiling_.features + feature) * tiling_.rows * tiling_.width;
  }
  at::Tensor hidden_sum_of(std::int64_t worker, std::int64_t feature, std::int64_t rows) const {
    return hidden_sums_.select(0, worker).select(0, feature).narrow(0, 0, rows);
  }
  bool has_hidden(std::int64_t worker, std::int64_t feature) const {
    return hidden_touched_[worker * tiling_.features + feature] != 0;
  }
  void forget_hidden(std::int64_t worker) {
    std::fill_n(hidden_touched_.begin() + worker * tiling_.features, tiling_.features, 0);
  }

  /// Where the weight's gradient is formed, [slots, V, D].
  const at::Tensor& weight_sums() const { return weight_sums_; }

  /// Both sums of a tile as something to add to: zeros where nothing was added yet. The weight's has columns x D
  /// elements.
  Wide* begun_hidden_sum(const LogitBlock& block, std::int64_t tile, std::int64_t worker);
  Wide* begun_weight_sum(const LogitBlock& block, std::int64_t tile);
  /// [V, D]: of all slots together, always added up in the same order.
  at::Tensor finished_weight();

 protected:
  std::int64_t weight_offset(const LogitBlock& block, std::int64_t tile) const {
    return (block.slot * tiling_.vocab_size + tiling_.tile_begin(tile)) * tiling_.width;
  }
  /// The sum that a tile's part of the features' gradient is added to, and whether it held anything before.
  Wide* sum_of_tile(std::int64_t tile, std::int64_t worker, bool& holds) {
    const std::int64_t feature = tiling_.feature_of[tile];
    holds = std::exchange(hidden_touched_[worker * tiling_.features + feature], 1) != 0;
    return hidden_sum(worker, feature);
  }
  /// The block's rows [rows, D] of the features that the tile's words see.
  const at::Tensor& features_of(const LogitBlock& block, std::int64_t tile) const {
    return features_[block.slot * tiling_.features + tiling_.feature_of[tile]];
  }
  /// Tiles of the weight's sum from [D, columns] to [columns, D], in place, where they are turned.
  void turn_weight_back();

  const LogitPass& pass_;
  const LogitTiling& tiling_;
  const vector::LogitKernels<T, Wide>& kernels_ = logit_kernels<T>();
  at::Tensor hidden_sums_, weight_sums_;  // [workers, features, rows, D], [slots, V, D]
  std::vector<at::Tensor> features_;      // [slots, features], of the blocks at work
  std::vector<char> hidden_touched_;      // [workers, features]: whether there is anything to add up
  std::vector<char> weight_touched_;      // [slots]
};

/// The fastest for these shapes and this type. `adds_up`: whether a tile of the weight gets more than one product, or
/// anything but products.
template <class T>
std::unique_ptr<TileProducts<T>> make_tile_products(const LogitPass& pass, const LogitTiling& tiling, bool adds_up);

/// out [columns, rows] is in [rows, columns] turned; strides are the distances between rows.
void turn(const float* in, std::int64_t rows, std::int64_t columns, std::int64_t in_stride, float* out,
          std::int64_t out_stride);

/// A contiguous [rows, columns] piece of flat storage, without allocating anything but the view.
at::Tensor view_of(const at::Tensor& storage, std::int64_t offset, std::int64_t rows, std::int64_t columns);

}  // namespace lmhead
