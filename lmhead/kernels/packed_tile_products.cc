#include "lmhead/kernels/packed_tile_products.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>

#include "lmhead/base/reused_memory.h"
#include "lmhead/kernels/packed_product.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

using vector::Bfloat16;

Bfloat16* numbers_of(const at::Tensor& tensor) { return static_cast<Bfloat16*>(tensor.mutable_data_ptr()); }

/// Sums are float32 throughout. Right factors are packed tile by tile, a block's features are turned once a block, and
/// tiles of the weight's gradient are formed turned, so that logits' gradients are left factors as they lie.
class PackedProducts final : public TileProducts<Bfloat16> {
 public:
  PackedProducts(const LogitPass& pass, const LogitTiling& tiling, bool adds_up)
      : TileProducts(pass, tiling, adds_up ? at::kFloat : at::kBFloat16),
        adds_up_(adds_up),
        turned_stride_(stride_of(tiling.rows + tiling.rows % 2)),
        packed_size_(std::max({packed_size(tiling.width, tiling.columns), packed_size(tiling.columns, tiling.width),
                               packed_size(kChunk, tiling.columns)})),
        sums_size_(tiling.columns *
                   (pass.wants_weight && !adds_up ? std::max(kRowsAtOnce, tiling.width) : kRowsAtOnce)),
        weight_(static_cast<const Bfloat16*>(pass.map.weight.const_data_ptr())),
        packed_(reused_memory(tiling.workers * packed_size_, at::kBFloat16)),
        sums_(reused_memory(tiling.workers * sums_size_, at::kFloat)) {
    if (pass.wants_weight) {
      turned_features_ = at::zeros({tiling.slots * tiling.features, tiling.width * turned_stride_}, at::kBFloat16);
      if (!adds_up) lines_ = at::empty({tiling.workers * kColumnsAtOnce * tiling.width}, at::kFloat);
    }
  }

  void begin_block(const LogitBlock& block, const std::vector<at::Tensor>& made) override {
    TileProducts::begin_block(block, made);
    if (!turned_features_.defined()) return;
    for (std::int64_t feature = 0; feature < tiling_.features; ++feature) {
      const std::int64_t place = block.slot * tiling_.features + feature;
      const at::Tensor turned =
          turned_features_.select(0, place).as_strided({tiling_.width, turned_stride_}, {turned_stride_, 1});
      turned.narrow(1, 0, block.rows).copy_(features_[place].t());
      if (block.rows % 2) turned.select(1, block.rows).zero_();  // what an odd number of rows is paired with
    }
  }

  void form_logits(const LogitBlock& block, std::int64_t tile, std::int64_t worker, std::int64_t first,
                   const at::Tensor& logits) override {
    const std::int64_t columns = tiling_.tile_columns(tile), width = tiling_.width;
    const std::int64_t rows = std::min(kRowsAtOnce, block.rows - first);
    const Bfloat16* features = numbers_of(features_of(block, tile)) + first * width;
    if (first == 0) pack_turned(width, columns, weight_tile(tile), width, packed(worker));
    packed_product(rows, columns, width, features, width, packed(worker), sums(worker), columns, false);
    kernels_.store(sums(worker), rows * columns, numbers_of(logits) + first * columns);
  }
  std::int64_t rows_at_once() const override { return kRowsAtOnce; }

  void add_to_hidden(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                     const at::Tensor& gradient) override {
    const std::int64_t columns = tiling_.tile_columns(tile), width = tiling_.width, even = columns - columns % 2;
    // One chain of V additions: in float32 it errs far less than the factors' own rounding to bfloat16.
    bool holds = false;
    float* sum = sum_of_tile(tile, worker, holds);
    if (even > 0) {
      pack_rows(even, width, weight_tile(tile), width, packed(worker));
      packed_product(block.rows, width, even, numbers_of(gradient), columns, packed(worker), sum, width, holds);
    } else if (!holds) {
      std::fill_n(sum, block.rows * width, 0.0f);
    }
    if (even == columns) return;
    for (std::int64_t row = 0; row < block.rows; ++row) {
      float last = 0;
      kernels_.load(numbers_of(gradient) + row * columns + even, nullptr, 1, {}, &last);
      kernels_.add_scaled(weight_tile(tile) + even * width, width, last, sum + row * width);
    }
  }

  void add_to_weight(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                     const at::Tensor& gradient) override {
    const std::int64_t columns = tiling_.tile_columns(tile), width = tiling_.width;
    const std::int64_t place = block.slot * tiling_.features + tiling_.feature_of[tile];
    const Bfloat16* features = numbers_of(turned_features_) + place * width * turned_stride_;
    float* turned = adds_up_ ? weight_sums_.mutable_data_ptr<float>() + weight_offset(block, tile) : sums(worker);
    for (std::int64_t row = 0; row < block.rows; row += kChunk) {
      const std::int64_t rows = std::min(kChunk, block.rows - row);
      pack_rows(rows, columns, numbers_of(gradient) + row * columns, columns, packed(worker));
      packed_product(width, columns, rows + rows % 2, features + row, turned_stride_, packed(worker), turned, columns,
                     row > 0 || (adds_up_ && !block.first));
    }
    if (!adds_up_) store_turned(turned, columns, worker, numbers_of(weight_sums_) + weight_offset(block, tile));
  }

  bool weight_is_turned() const override { return adds_up_; }
  void rest() const override { end_packed_products(); }

 private:
  static constexpr std::int64_t kChunk = 512;         // rows whose gradients are packed at once; even
  static constexpr std::int64_t kRowsAtOnce = 128;    // of logits, on their way to bfloat16
  static constexpr std::int64_t kColumnsAtOnce = 16;  // of the weight's gradient, on their way back

  static std::int64_t stride_of(std::int64_t rows) {
    return rows % (2 * tile_sizes::kCrowdedStride) ? rows : rows + 32;
  }
  const Bfloat16* weight_tile(std::int64_t tile) const { return weight_ + tiling_.tile_begin(tile) * tiling_.width; }
  Bfloat16* packed(std::int64_t worker) const { return numbers_of(packed_) + worker * packed_size_; }
  float* sums(std::int64_t worker) const { return sums_.mutable_data_ptr<float>() + worker * sums_size_; }

  /// `turned` [D, columns] to `stored` [columns, D].
  void store_turned(const float* turned, std::int64_t columns, std::int64_t worker, Bfloat16* stored) const {
    const std::int64_t width = tiling_.width;
    float* lines = lines_.mutable_data_ptr<float>() + worker * kColumnsAtOnce * width;
    for (std::int64_t column = 0; column < columns; column += kColumnsAtOnce) {
      const std::int64_t count = std::min(kColumnsAtOnce, columns - column);
      turn(turned + column, width, count, columns, lines, width);
      kernels_.store(lines, count * width, stored + column * width);
    }
  }

  bool adds_up_;
  std::int64_t turned_stride_, packed_size_, sums_size_;
  const Bfloat16* weight_;
  at::Tensor packed_, sums_, lines_;  // for each worker: a right factor; logits or a tile of dL/dW; some of its rows
  at::Tensor turned_features_;        // [slots, features, D x rows]
};

}  // namespace

std::unique_ptr<TileProducts<Bfloat16>> make_packed_products(const LogitPass& pass, const LogitTiling& tiling,
                                                             bool adds_up) {
  return std::make_unique<PackedProducts>(pass, tiling, adds_up);
}

}  // namespace lmhead
