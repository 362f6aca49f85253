#include "lmhead/kernels/tile_products.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "lmhead/base/reused_memory.h"
#include "lmhead/kernels/packed_tile_products.h"
#include "lmhead/kernels/row_major_product.h"
#include "lmhead/kernels/threads.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

using vector::Bfloat16;

/// Products by ATen; what it rounds to bfloat16 is added up in float32.
template <class T>
class AtenProducts final : public TileProducts<T> {
  using Base = TileProducts<T>;
  using typename Base::Wide;
  static constexpr bool kSameType = std::is_same_v<T, Wide>;

 public:
  AtenProducts(const LogitPass& pass, const LogitTiling& tiling, bool adds_up)
      : Base(pass, tiling, kSameType || adds_up ? c10::CppTypeToScalarType<Wide>::value : pass.type()),
        adds_up_(adds_up) {
    for (std::int64_t tile = 0; tile < tiling.tiles; ++tile) {
      weight_.push_back(pass.map.weight.narrow(0, tiling.tile_begin(tile), tiling.tile_columns(tile)));
      weight_turned_.push_back(weight_.back().t());
    }
    if (pass.wants_hidden || (pass.wants_weight && !kSameType && adds_up))
      products_ =
          at::empty({tiling.workers, (kSameType ? tiling.rows : std::max(tiling.rows, tiling.columns)) * tiling.width},
                    pass.type());
  }

  void form_logits(const LogitBlock& block, std::int64_t tile, std::int64_t, std::int64_t,
                   const at::Tensor& logits) override {
    at::Tensor result = logits;
    at::mm_out(result, this->features_of(block, tile), weight_turned_[tile]);
  }
  void add_to_hidden(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                     const at::Tensor& gradient) override {
    // Tiles are added up outside of the product: one chain of V additions would err several times as much.
    bool holds = false;
    Wide* sum = this->sum_of_tile(tile, worker, holds);
    add_product(gradient, weight_[tile], worker, sum, !holds);
  }
  void add_to_weight(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                     const at::Tensor& gradient) override {
    at::Tensor total =
        view_of(this->weight_sums_, this->weight_offset(block, tile), gradient.size(1), this->tiling_.width);
    if constexpr (kSameType) {
      at::addmm_out(total, total, gradient.t(), this->features_of(block, tile), block.first ? 0 : 1, 1);
    } else if (adds_up_) {
      add_product(gradient.t(), this->features_of(block, tile), worker, total.template mutable_data_ptr<Wide>(),
                  block.first);
    } else {
      at::mm_out(total, gradient.t(), this->features_of(block, tile));
    }
  }

 private:
  void add_product(const at::Tensor& left, const at::Tensor& right, std::int64_t worker, Wide* total, bool first) {
    at::Tensor product = view_of(products_, worker * products_.size(1), left.size(0), right.size(1));
    at::mm_out(product, left, right);
    this->kernels_.add(static_cast<const T*>(product.const_data_ptr()), product.numel(), first, total);
  }

  bool adds_up_;
  std::vector<at::Tensor> weight_, weight_turned_;  // tiles
  at::Tensor products_;
};

/// Products by row_major_product. Tiles of the weight, a block's features and the weight's gradient are turned for it,
/// into rows whose distance crowds no cache.
class RowMajorProducts final : public TileProducts<float> {
 public:
  RowMajorProducts(const LogitPass& pass, const LogitTiling& tiling)
      : TileProducts(pass, tiling, at::kFloat),
        turned_weight_stride_(stride_of(tiling.columns)),
        turned_hidden_stride_(stride_of(tiling.rows)),
        weight_(pass.map.weight.const_data_ptr<float>()),
        // A copy costs as much as the crowding of smaller strides does.
        copies_weight_(pass.wants_hidden && tiling.width % (4 * tile_sizes::kCrowdedStride) == 0) {
    weight_scratch_size_ = tiling.width * turned_weight_stride_;
    if (copies_weight_) weight_scratch_size_ = std::max(weight_scratch_size_, tiling.columns * stride_of(tiling.width));
    weight_scratch_ = reused_memory(tiling.workers * weight_scratch_size_, at::kFloat);
    if (pass.wants_weight)
      turned_hidden_ = at::empty({tiling.slots * tiling.features, tiling.width * turned_hidden_stride_}, at::kFloat);
  }

  void begin_block(const LogitBlock& block, const std::vector<at::Tensor>& made) override {
    TileProducts::begin_block(block, made);
    if (!turned_hidden_.defined()) return;
    for (std::int64_t feature = 0; feature < tiling_.features; ++feature)
      turned_hidden_.select(0, block.slot * tiling_.features + feature)
          .as_strided({tiling_.width, block.rows}, {turned_hidden_stride_, 1})
          .copy_(features_[block.slot * tiling_.features + feature].t());
  }
  void form_logits(const LogitBlock& block, std::int64_t tile, std::int64_t worker, std::int64_t,
                   const at::Tensor& logits) override {
    const std::int64_t columns = tiling_.tile_columns(tile), width = tiling_.width;
    turn(weight_ + tiling_.tile_begin(tile) * width, columns, width, width, scratch_data(worker),
         turned_weight_stride_);
    row_major_product(block.rows, columns, width, features_of(block, tile).const_data_ptr<float>(), width,
                      scratch_data(worker), turned_weight_stride_, logits.mutable_data_ptr<float>(), columns, false);
  }
  void add_to_hidden(const LogitBlock& block, std::int64_t tile, std::int64_t worker,
                     const at::Tensor& gradient) override {
    const std::int64_t columns = tiling_.tile_columns(tile), width = tiling_.width;
    const float* weight = weight_ + tiling_.tile_begin(tile) * width;
    std::int64_t stride = width;
    if (copies_weight_) {
      stride = stride_of(width);
      scratch(worker, columns, width, stride).copy_(weight_tile(tile));
      weight = scratch_data(worker);
    }
    // What is there already is added to each product's sum, not summed up with it: one chain of V additions would err
    // several times as much.
    bool holds = false;
    float* sum = sum_of_tile(tile, worker, holds);
    row_major_product(block.rows, width, columns, gradient.const_data_ptr<float>(), columns, weight, stride, sum, width,
                      holds);
  }
  void add_to_weight(const LogitBlock& block, std::int64_t tile, std::int64_t, const at::Tensor& gradient) override {
    const std::int64_t columns = tiling_.tile_columns(tile);
    const std::int64_t place = block.slot * tiling_.features + tiling_.feature_of[tile];
    row_major_product(tiling_.width, columns, block.rows,
                      turned_hidden_.const_data_ptr<float>() + place * tiling_.width * turned_hidden_stride_,
                      turned_hidden_stride_, gradient.const_data_ptr<float>(), columns,
                      weight_sums_.mutable_data_ptr<float>() + weight_offset(block, tile), columns, !block.first);
  }
  bool weight_is_turned() const override { return true; }

 private:
  static std::int64_t stride_of(std::int64_t columns) {
    return columns % tile_sizes::kCrowdedStride ? columns : columns + 16;
  }
  at::Tensor weight_tile(std::int64_t tile) const {
    return pass_.map.weight.narrow(0, tiling_.tile_begin(tile), tiling_.tile_columns(tile));
  }
  float* scratch_data(std::int64_t worker) {
    return weight_scratch_.mutable_data_ptr<float>() + worker * weight_scratch_size_;
  }
  at::Tensor scratch(std::int64_t worker, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
    return weight_scratch_.as_strided({rows, columns}, {stride, 1}, worker * weight_scratch_size_);
  }

  std::int64_t turned_weight_stride_, turned_hidden_stride_, weight_scratch_size_;
  const float* weight_;
  bool copies_weight_;
  at::Tensor weight_scratch_, turned_hidden_;  // a tile of the weight for each worker; [slots, features, D x rows]
};

}  // namespace

at::Tensor view_of(const at::Tensor& storage, std::int64_t offset, std::int64_t rows, std::int64_t columns) {
  return storage.as_strided({rows, columns}, {columns, 1}, storage.storage_offset() + offset);
}

void turn(const float* in, std::int64_t rows, std::int64_t columns, std::int64_t in_stride, float* out,
          std::int64_t out_stride) {
  vector::row_kernels().packing.turn(reinterpret_cast<const std::uint32_t*>(in), rows, columns, in_stride,
                                     reinterpret_cast<std::uint32_t*>(out), out_stride);
}

template <class T>
TileProducts<T>::TileProducts(const LogitPass& pass, const LogitTiling& tiling, at::ScalarType weight_sum_type)
    : pass_(pass), tiling_(tiling), features_(tiling.slots * tiling.features) {
  if (pass.wants_hidden) {
    hidden_sums_ = reused_memory(tiling.workers * tiling.features * tiling.rows * tiling.width,
                                 c10::CppTypeToScalarType<Wide>::value)
                       .view({tiling.workers, tiling.features, tiling.rows, tiling.width});
    hidden_touched_.resize(tiling.workers * tiling.features);
  }
  if (pass.wants_weight) {
    weight_sums_ = reused_memory(tiling.slots * tiling.vocab_size * tiling.width, weight_sum_type)
                       .view({tiling.slots, tiling.vocab_size, tiling.width});
    weight_touched_.resize(tiling.slots);
  }
}

template <class T>
void TileProducts<T>::begin_block(const LogitBlock& block, const std::vector<at::Tensor>& made) {
  for (std::int64_t feature = 0; feature < tiling_.features; ++feature)
    features_[block.slot * tiling_.features + feature] =
        !made.empty() ? made[feature] : pass_.hidden.narrow(0, feature * tiling_.size + block.begin, block.rows);
  if (!weight_touched_.empty()) weight_touched_[block.slot] = 1;
}

template <class T>
WideOf<T>* TileProducts<T>::begun_hidden_sum(const LogitBlock& block, std::int64_t tile, std::int64_t worker) {
  bool holds = false;
  Wide* sum = sum_of_tile(tile, worker, holds);
  if (!holds) std::fill_n(sum, block.rows * tiling_.width, Wide(0));
  return sum;
}

template <class T>
WideOf<T>* TileProducts<T>::begun_weight_sum(const LogitBlock& block, std::int64_t tile) {
  Wide* sum = weight_sums_.template mutable_data_ptr<Wide>() + weight_offset(block, tile);
  if (block.first) std::fill_n(sum, tiling_.tile_columns(tile) * tiling_.width, Wide(0));
  return sum;
}

template <class T>
at::Tensor TileProducts<T>::finished_weight() {
  at::Tensor whole = weight_sums_.select(0, 0);
  if (!weight_touched_[0]) {
    whole.zero_();
    return whole;
  }
  if (tiling_.slots > 1) {
    Wide* total = weight_sums_.template mutable_data_ptr<Wide>();
    const std::int64_t count = whole.numel();
    at::parallel_for(0, count, tile_sizes::kElementsPerThread, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t slot = 1; slot < tiling_.slots; ++slot) {
        if (!weight_touched_[slot]) continue;
        for (std::int64_t i = begin; i < end; ++i) total[i] += total[slot * count + i];
      }
    });
  }
  turn_weight_back();
  return tiling_.slots > 1 ? whole.clone() : whole;
}

template <class T>
void TileProducts<T>::turn_weight_back() {
  if constexpr (std::is_same_v<Wide, float>) {
    if (!weight_is_turned()) return;
    const std::int64_t width = tiling_.width;
    const at::Tensor scratch = at::empty({tiling_.workers, tiling_.columns * width}, at::kFloat);
    at::parallel_for(0, tiling_.tiles, 1, [&](std::int64_t begin, std::int64_t end) {
      float* turned = scratch.mutable_data_ptr<float>() + at::get_thread_num() * tiling_.columns * width;
      for (std::int64_t tile = begin; tile < end; ++tile) {
        const std::int64_t columns = tiling_.tile_columns(tile);
        float* sums = weight_sums_.template mutable_data_ptr<float>() + tiling_.tile_begin(tile) * width;
        turn(sums, width, columns, columns, turned, width);
        std::copy_n(turned, columns * width, sums);
      }
    });
  }
}

template <class T>
std::unique_ptr<TileProducts<T>> make_tile_products(const LogitPass& pass, const LogitTiling& tiling, bool adds_up) {
  if constexpr (std::is_same_v<T, float>) {
    if (has_row_major_product() && tiling.rows >= tile_sizes::kFewestTurnedRows)
      return std::make_unique<RowMajorProducts>(pass, tiling);
  }
  if constexpr (std::is_same_v<T, Bfloat16>) {
    if (tiling.packed) return make_packed_products(pass, tiling, adds_up);
  }
  return std::make_unique<AtenProducts<T>>(pass, tiling, adds_up);
}

template class TileProducts<float>;
template class TileProducts<double>;
template class TileProducts<Bfloat16>;
template std::unique_ptr<TileProducts<float>> make_tile_products(const LogitPass&, const LogitTiling&, bool);
template std::unique_ptr<TileProducts<double>> make_tile_products(const LogitPass&, const LogitTiling&, bool);
template std::unique_ptr<TileProducts<Bfloat16>> make_tile_products(const LogitPass&, const LogitTiling&, bool);

}  // namespace lmhead
