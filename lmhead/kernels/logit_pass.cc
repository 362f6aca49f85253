#include "lmhead/kernels/logit_pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "lmhead/kernels/left_out_tile.h"
#include "lmhead/kernels/row_major_product.h"
#include "lmhead/kernels/threads.h"
#include "lmhead/kernels/tile_sizes.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

using vector::Bfloat16;
using vector::LineSums;

template <class T>
struct Types;
template <>
struct Types<float> {
  using Wide = float;
  static const auto& kernels() { return vector::row_kernels().logits_float; }
};
template <>
struct Types<double> {
  using Wide = double;
  static const auto& kernels() { return vector::row_kernels().logits_double; }
};
template <>
struct Types<Bfloat16> {
  using Wide = float;
  static const auto& kernels() { return vector::row_kernels().logits_bfloat16; }
};

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// A contiguous [rows, columns] piece of flat storage, without allocating anything but the view.
at::Tensor view_of(const at::Tensor& storage, std::int64_t offset, std::int64_t rows, std::int64_t columns) {
  return storage.as_strided({rows, columns}, {columns, 1}, storage.storage_offset() + offset);
}

template <class T>
class Runner {
  using Wide = typename Types<T>::Wide;
  static constexpr bool kSameType = std::is_same_v<T, Wide>;

 public:
  explicit Runner(LogitPass& pass);
  void run();

 private:
  struct Block {
    std::int64_t begin, rows;
    std::int64_t slot;   // which block buffer it lives in
    bool first;          // of those that add to the same weight gradient
  };
  std::int64_t tile_begin(std::int64_t tile) const { return tile * columns_; }
  std::int64_t tile_columns(std::int64_t tile) const { return std::min(columns_, vocab_size_ - tile * columns_); }
  std::int64_t logits_offset(const Block& block, std::int64_t tile, std::int64_t worker) const {
    return (keeps_ ? block.slot * tiles_ + tile : worker) * rows_ * columns_;
  }

  void turn_hidden(const Block& block);
  void compute_logits(const Block& block, std::int64_t tile, std::int64_t worker);
  Wide* finished_line(T* stored, std::int64_t tile, std::int64_t worker, bool finished_in_place);
  void sum_tile(const Block& block, std::int64_t tile, std::int64_t worker);
  void combine_row(const Block& block, std::int64_t row);
  void form_tile(const Block& block, std::int64_t tile, std::int64_t worker);
  bool form_gradient(const Block& block, std::int64_t tile, std::int64_t worker);
  void multiply_tile(const Block& block, std::int64_t tile, std::int64_t worker);
  void multiply_row_major(const Block& block, std::int64_t tile, std::int64_t worker);
  double leave_out(const Block& block, std::int64_t tile, std::int64_t worker);
  void finish_rows(const Block& block, std::int64_t first_worker, std::int64_t last_worker, std::int64_t begin,
                   std::int64_t end);
  void run_sharing_rows();
  void run_sharing_vocabulary();
  void add_up_workers();
  void turn_weight_gradient();

  LogitPass& pass_;
  const vector::LogitKernels<T, Wide>& kernels_ = Types<T>::kernels();
  std::int64_t size_, width_, vocab_size_;
  std::int64_t workers_, rows_, columns_, tiles_, blocks_;
  bool shares_rows_, sums_, gradients_, keeps_, needs_finish_;
  bool sums_weight_;  // over blocks or workers, in Wide; else every tile's product is the result already
  bool turns_;  // products by row_major_product, for which weight, features and weight gradient are turned tile by tile
  at::Tensor weight_, bias_, class_weight_;
  std::vector<double> tile_weight_;  // class weight in all of each tile
  std::vector<at::Tensor> weight_tiles_, weight_tiles_turned_;

  at::Tensor logits_, lines_, products_;        // scratch
  at::Tensor turned_weight_, turned_hidden_;    // [workers, D x columns], [slots, D x rows]
  at::Tensor hidden_sums_, weight_sums_, bias_sums_;  // [workers, rows, D], [slots, V, D], [slots, V]
  std::vector<char> hidden_touched_, weight_touched_;  // [workers], [slots]: whether there is anything to add up
  std::vector<LineSums> line_sums_;             // [slots, tiles, rows]
  std::vector<double> target_logits_, squares_;  // [slots, rows], [slots, tiles, rows]
  std::vector<std::int64_t> skipped_;           // [workers]
  std::vector<double> skipped_squares_;         // [workers]
  std::vector<std::vector<Wide>> scratch_;      // [workers], of tiles that are left out
};

template <class T>
Runner<T>::Runner(LogitPass& pass) : pass_(pass) {
  size_ = pass.hidden.size(0), width_ = pass.hidden.size(1), vocab_size_ = pass.map.weight.size(0);
  sums_ = static_cast<bool>(pass.on_row);
  gradients_ = pass.wants_hidden || pass.wants_weight || pass.wants_bias || pass.wants_squares;
  keeps_ = sums_ && gradients_;
  needs_finish_ = pass.map.bias.defined() || pass.map.logit_scale != 1 || pass.map.logit_softcap > 0;

  workers_ = at::in_parallel_region() ? 1 : at::get_num_threads();
  rows_ = keeps_ ? rows_per_kept_block(vocab_size_, pass.hidden.scalar_type()) : tile_sizes::kRowsPerBlock;
  shares_rows_ = workers_ > 1 && vocab_size_ <= tile_sizes::kSharedRowsVocabularyLimit &&
                 vocab_size_ * width_ <= tile_sizes::kSharedRowsWeightLimit;
  if (shares_rows_) {
    // Every thread gets the same number of blocks, and blocks of about the same size.
    const std::int64_t rounds = divide_up(size_, workers_ * rows_);
    rows_ = std::max<std::int64_t>(1, divide_up(size_, std::max<std::int64_t>(1, workers_ * rounds)));
  }
  rows_ = std::min(rows_, std::max<std::int64_t>(size_, 1));
  blocks_ = divide_up(size_, rows_);
  tiles_ = divide_up(vocab_size_, tile_sizes::kColumnsPerTile);
  if (!shares_rows_) tiles_ = divide_up(tiles_, workers_) * workers_;
  columns_ = divide_up(divide_up(vocab_size_, tiles_), tile_sizes::kColumnMultiple) * tile_sizes::kColumnMultiple;
  columns_ = std::min(columns_, vocab_size_);
  tiles_ = divide_up(vocab_size_, columns_);
  turns_ = std::is_same_v<T, float> && has_row_major_product() && rows_ >= tile_sizes::kFewestTurnedRows;

  const at::ScalarType wide = c10::CppTypeToScalarType<Wide>::value;
  weight_ = pass.map.weight.detach();
  if (pass.map.bias.defined()) bias_ = pass.map.bias.detach().to(wide).contiguous();
  if (pass.class_weight.defined()) class_weight_ = pass.class_weight.detach().to(wide).contiguous();
  for (std::int64_t tile = 0; tile < tiles_; ++tile) {
    weight_tiles_.push_back(weight_.narrow(0, tile_begin(tile), tile_columns(tile)));
    weight_tiles_turned_.push_back(weight_tiles_.back().t());
    if (!class_weight_.defined()) {
      tile_weight_.push_back(static_cast<double>(tile_columns(tile)));
      continue;
    }
    const Wide* weights = class_weight_.template const_data_ptr<Wide>() + tile_begin(tile);
    double sum = 0;
    for (std::int64_t column = 0; column < tile_columns(tile); ++column) sum += weights[column];
    tile_weight_.push_back(sum);
  }

  const std::int64_t slots = shares_rows_ ? workers_ : 1;
  const at::ScalarType stored = pass.hidden.scalar_type();
  logits_ = at::empty({(keeps_ ? slots * tiles_ : workers_) * rows_ * columns_}, stored);
  if (!kSameType) lines_ = at::empty({workers_, columns_}, wide);
  if (pass.wants_hidden || (pass.wants_weight && !kSameType))
    products_ = at::empty({workers_, (kSameType ? rows_ : std::max(rows_, columns_)) * width_}, stored);
  if (turns_) turned_weight_ = at::empty({workers_, width_ * columns_}, wide);
  if (turns_ && pass.wants_weight) turned_hidden_ = at::empty({slots, width_ * rows_}, wide);
  if (sums_) line_sums_.resize(slots * tiles_ * rows_), target_logits_.resize(slots * rows_);
  if (sums_) pass.factors.resize(size_);
  if (pass.wants_squares) squares_.resize(slots * tiles_ * rows_), pass.squares = at::zeros({size_}, at::kDouble);
  if (pass.wants_hidden) {
    hidden_sums_ = at::empty({workers_, rows_, width_}, wide);
    hidden_touched_.resize(workers_);
    pass.d_hidden = at::empty({size_, width_}, wide);
  }
  sums_weight_ = kSameType || shares_rows_ || blocks_ != 1 || pass.filter_threshold > 0;
  if (pass.wants_weight) {
    weight_sums_ = at::empty({slots, vocab_size_, width_}, sums_weight_ ? wide : stored);
    weight_touched_.resize(slots);
  }
  if (pass.wants_bias) bias_sums_ = at::zeros({slots, vocab_size_}, at::kDouble);
  skipped_.resize(workers_), skipped_squares_.resize(workers_), scratch_.resize(workers_);
}

/// The block's features as [D, rows], which every tile's weight gradient is multiplied from.
template <class T>
void Runner<T>::turn_hidden(const Block& block) {
  if (!turned_hidden_.defined()) return;
  view_of(turned_hidden_, block.slot * width_ * rows_, width_, block.rows)
      .copy_(pass_.hidden.narrow(0, block.begin, block.rows).t());
}

template <class T>
void Runner<T>::compute_logits(const Block& block, std::int64_t tile, std::int64_t worker) {
  if constexpr (std::is_same_v<T, float>) {
    if (turns_) {
      const std::int64_t columns = tile_columns(tile);
      at::Tensor turned = view_of(turned_weight_, worker * width_ * columns_, width_, columns);
      turned.copy_(weight_tiles_turned_[tile]);
      row_major_product(block.rows, columns, width_, pass_.hidden.template const_data_ptr<float>() + block.begin * width_,
                        width_, turned.template const_data_ptr<float>(), columns,
                        logits_.template mutable_data_ptr<float>() + logits_offset(block, tile, worker), columns, false);
      return;
    }
  }
  at::Tensor out = view_of(logits_, logits_offset(block, tile, worker), block.rows, tile_columns(tile));
  at::mm_out(out, pass_.hidden.narrow(0, block.begin, block.rows), weight_tiles_turned_[tile]);
}

/// The line with bias, scale and soft-cap applied: `stored` itself where types agree, else the worker's scratch.
template <class T>
typename Types<T>::Wide* Runner<T>::finished_line(T* stored, std::int64_t tile, std::int64_t worker,
                                                  bool finished_in_place) {
  Wide* line;
  if constexpr (kSameType) {
    line = stored;
    if (!needs_finish_ || finished_in_place) return line;
  } else {
    line = lines_.template mutable_data_ptr<Wide>() + worker * columns_;
  }
  const Wide* bias = bias_.defined() ? bias_.template const_data_ptr<Wide>() + tile_begin(tile) : nullptr;
  kernels_.load(stored, bias, tile_columns(tile), pass_.map.logit_scale, pass_.map.logit_softcap, line);
  return line;
}

template <class T>
void Runner<T>::sum_tile(const Block& block, std::int64_t tile, std::int64_t worker) {
  compute_logits(block, tile, worker);
  T* stored = static_cast<T*>(logits_.mutable_data_ptr()) + logits_offset(block, tile, worker);
  const std::int64_t begin = tile_begin(tile), columns = tile_columns(tile);
  const Wide* weights = class_weight_.defined() ? class_weight_.template const_data_ptr<Wide>() + begin : nullptr;
  for (std::int64_t row = 0; row < block.rows; ++row) {
    const Wide* line = finished_line(stored + row * columns, tile, worker, false);
    line_sums_[(block.slot * tiles_ + tile) * rows_ + row] =
        kernels_.sums(line, columns, weights, pass_.wants_weighted, pass_.wants_more);
    const std::int64_t target = pass_.targets[block.begin + row] - begin;
    if (target >= 0 && target < columns) target_logits_[block.slot * rows_ + row] = static_cast<double>(line[target]);
  }
}

template <class T>
void Runner<T>::combine_row(const Block& block, std::int64_t row) {
  const LineSums* sums = &line_sums_[block.slot * tiles_ * rows_ + row];
  double max = -std::numeric_limits<double>::infinity();
  std::int64_t arg_max = 0;
  for (std::int64_t tile = 0; tile < tiles_; ++tile) {
    if (!(sums[tile * rows_].max > max)) continue;
    max = sums[tile * rows_].max;
    arg_max = tile_begin(tile) + sums[tile * rows_].arg_max;
  }
  double sum = 0, entropy = 0;
  for (std::int64_t tile = 0; tile < tiles_; ++tile) {
    const LineSums& part = sums[tile * rows_];
    if (std::isinf(part.max) && part.max < 0 && part.sum == 0) continue;
    const double difference = part.max - max, share = std::exp(difference);
    sum += part.sum * share;
    if (share > 0) entropy += share * (part.entropy + difference * part.sum);
  }
  RowOutcome outcome{max, max + std::log(sum), target_logits_[block.slot * rows_ + row], 0, 0, false};
  if (pass_.wants_weighted) {
    for (std::int64_t tile = 0; tile < tiles_; ++tile) {
      const LineSums& part = sums[tile * rows_];
      const double shift = std::isinf(part.max) && part.max < 0 ? 0 : part.max;
      outcome.weighted += (outcome.logsumexp - shift) * tile_weight_[tile] - part.weighted;
    }
  }
  outcome.entropy = std::log(sum) - entropy / sum;
  outcome.correct = arg_max == pass_.targets[block.begin + row];
  pass_.factors[block.begin + row] = pass_.on_row(block.begin + row, outcome);
}

/// Turns the tile's logits into gradients in place; false where the filter says that its products may be skipped.
template <class T>
bool Runner<T>::form_gradient(const Block& block, std::int64_t tile, std::int64_t worker) {
  T* stored = static_cast<T*>(logits_.mutable_data_ptr()) + logits_offset(block, tile, worker);
  const std::int64_t begin = tile_begin(tile), columns = tile_columns(tile);
  const Wide* weights = class_weight_.defined() ? class_weight_.template const_data_ptr<Wide>() + begin : nullptr;
  const double cap = pass_.map.logit_softcap;
  const bool filters = pass_.filter_threshold > 0;
  bool matters = !filters;
  for (std::int64_t row = 0; row < block.rows; ++row) {
    const RowFactors& factors = pass_.factors[block.begin + row];
    Wide* line = finished_line(stored + row * columns, tile, worker, sums_);
    const std::int64_t target = pass_.targets[block.begin + row] - begin;
    const double probability = factors.probability * std::exp(factors.max - factors.logsumexp);
    kernels_.gradient(line, columns, {factors.max, probability, factors.smoothing, factors.target, target, cap}, weights);
    if (filters && !matters) {
      // The target's own entry never counts: a tile that is left out adds it all the same.
      const bool has_target = target >= 0 && target < columns;
      const Wide of_target = has_target ? std::exchange(line[target], Wide(0)) : Wide(0);
      const double limit = pass_.filter_threshold * std::abs(factors.target);
      matters = !(static_cast<double>(kernels_.magnitude(line, columns)) <= limit);
      if (has_target) line[target] = of_target;
    }
    if (pass_.wants_squares)
      squares_[(block.slot * tiles_ + tile) * rows_ + row] = kernels_.dot(line, line, columns);
    if (pass_.wants_bias)
      kernels_.add_to_double(line, columns,
                             bias_sums_.template mutable_data_ptr<double>() + block.slot * vocab_size_ + begin);
    if constexpr (!kSameType) kernels_.store(line, columns, stored + row * columns);
  }
  return matters;
}

/// As multiply_tile; the weight gradient's tile is [D, columns] until turn_weight_gradient.
template <class T>
void Runner<T>::multiply_row_major(const Block& block, std::int64_t tile, std::int64_t worker) {
  if constexpr (std::is_same_v<T, float>) {
    const std::int64_t begin = tile_begin(tile), columns = tile_columns(tile), rows = block.rows;
    const float* gradient = logits_.template const_data_ptr<float>() + logits_offset(block, tile, worker);
    if (pass_.wants_hidden) {
      float* product = products_.template mutable_data_ptr<float>() + worker * products_.size(1);
      row_major_product(rows, width_, columns, gradient, columns,
                        weight_.template const_data_ptr<float>() + begin * width_, width_, product, width_, false);
      kernels_.add(product, rows * width_, !hidden_touched_[worker],
                   hidden_sums_.template mutable_data_ptr<float>() + worker * rows_ * width_);
      hidden_touched_[worker] = 1;
    }
    if (pass_.wants_weight)
      row_major_product(width_, columns, rows,
                        turned_hidden_.template const_data_ptr<float>() + block.slot * width_ * rows_, rows, gradient,
                        columns, weight_sums_.template mutable_data_ptr<float>() + (block.slot * vocab_size_ + begin) * width_,
                        columns, !block.first);
  }
}

template <class T>
void Runner<T>::multiply_tile(const Block& block, std::int64_t tile, std::int64_t worker) {
  if (turns_) return multiply_row_major(block, tile, worker);
  const std::int64_t columns = tile_columns(tile);
  const at::Tensor gradient = view_of(logits_, logits_offset(block, tile, worker), block.rows, columns);
  const auto add_product = [&](const at::Tensor& left, const at::Tensor& right, const at::Tensor& total, bool first) {
    at::Tensor product = view_of(products_, worker * products_.size(1), total.size(0), total.size(1));
    at::mm_out(product, left, right);
    kernels_.add(static_cast<const T*>(product.const_data_ptr()), product.numel(), first,
                 total.template mutable_data_ptr<Wide>());
  };
  if (pass_.wants_hidden) {
    // Tiles are added up outside of the product: one chain of V additions would err several times as much.
    add_product(gradient, weight_tiles_[tile], view_of(hidden_sums_, worker * rows_ * width_, block.rows, width_),
                !hidden_touched_[worker]);
    hidden_touched_[worker] = 1;
  }
  if (!pass_.wants_weight) return;
  const at::Tensor rows = pass_.hidden.narrow(0, block.begin, block.rows);
  at::Tensor total = view_of(weight_sums_, (block.slot * vocab_size_ + tile_begin(tile)) * width_, columns, width_);
  if constexpr (kSameType) {
    at::addmm_out(total, total, gradient.t(), rows, block.first ? 0 : 1, 1);
  } else if (sums_weight_) {  // ATen rounds a bfloat16 product to bfloat16; products are added up in float32
    add_product(gradient.t(), rows, total, block.first);
  } else {
    at::mm_out(total, gradient.t(), rows);
  }
}

template <class T>
void Runner<T>::form_tile(const Block& block, std::int64_t tile, std::int64_t worker) {
  if (!sums_) compute_logits(block, tile, worker);
  if (form_gradient(block, tile, worker)) {
    multiply_tile(block, tile, worker);
    return;
  }
  skipped_[worker] += 1;
  skipped_squares_[worker] += leave_out(block, tile, worker);
}

/// Adds what stands for a tile whose products are left out; the sum of squares of what does not.
template <class T>
double Runner<T>::leave_out(const Block& block, std::int64_t tile, std::int64_t worker) {
  const std::int64_t begin = tile_begin(tile), columns = tile_columns(tile);
  LeftOutTile<T, Wide> left_out{
      .gradients = static_cast<T*>(logits_.mutable_data_ptr()) + logits_offset(block, tile, worker),
      .rows = block.rows, .columns = columns, .width = width_,
      .targets = pass_.targets + block.begin, .factors = pass_.factors.data() + block.begin,
      .limit = pass_.filter_threshold, .first_id = begin, .has_slope = pass_.map.logit_softcap > 0,
      .weight = static_cast<const T*>(weight_.const_data_ptr()) + begin * width_,
      .hidden = static_cast<const T*>(pass_.hidden.const_data_ptr()) + block.begin * width_,
      .d_hidden = nullptr, .d_weight = nullptr, .weight_is_turned = turns_};
  if (pass_.wants_hidden) {
    left_out.d_hidden = hidden_sums_.template mutable_data_ptr<Wide>() + worker * rows_ * width_;
    if (!hidden_touched_[worker]) std::fill_n(left_out.d_hidden, block.rows * width_, Wide(0));
    hidden_touched_[worker] = 1;
  }
  if (pass_.wants_weight) {
    left_out.d_weight = weight_sums_.template mutable_data_ptr<Wide>() + (block.slot * vocab_size_ + begin) * width_;
    if (block.first) std::fill_n(left_out.d_weight, columns * width_, Wide(0));
  }
  return left_out.add(kernels_, Types<Wide>::kernels(), scratch_[worker]);
}

/// Adds up what the workers have for rows [begin, end) of the block, always in the same order.
template <class T>
void Runner<T>::finish_rows(const Block& block, std::int64_t first_worker, std::int64_t last_worker,
                            std::int64_t begin, std::int64_t end) {
  if (pass_.wants_squares) {
    for (std::int64_t row = begin; row < end; ++row) {
      double sum = 0;
      for (std::int64_t tile = 0; tile < tiles_; ++tile) sum += squares_[(block.slot * tiles_ + tile) * rows_ + row];
      pass_.squares.template mutable_data_ptr<double>()[block.begin + row] = sum;
    }
  }
  if (!pass_.wants_hidden) return;
  Wide* result = pass_.d_hidden.template mutable_data_ptr<Wide>() + (block.begin + begin) * width_;
  const std::int64_t count = (end - begin) * width_;
  bool first = true;
  for (std::int64_t worker = first_worker; worker < last_worker; ++worker) {
    if (!hidden_touched_[worker]) continue;
    const Wide* part = hidden_sums_.template const_data_ptr<Wide>() + (worker * rows_ + begin) * width_;
    if (first) std::copy_n(part, count, result);
    else for (std::int64_t i = 0; i < count; ++i) result[i] += part[i];
    first = false;
  }
  if (first) std::fill_n(result, count, Wide(0));
}

template <class T>
void Runner<T>::run_sharing_rows() {
  at::parallel_for(0, blocks_, 1, [&](std::int64_t begin, std::int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const std::int64_t worker = at::get_thread_num();
    for (std::int64_t index = begin; index < end; ++index) {
      const Block block{index * rows_, std::min(rows_, size_ - index * rows_), worker, index == begin};
      turn_hidden(block);
      if (sums_) {
        for (std::int64_t tile = 0; tile < tiles_; ++tile) sum_tile(block, tile, worker);
        for (std::int64_t row = 0; row < block.rows; ++row) combine_row(block, row);
      }
      if (!gradients_) continue;
      if (pass_.wants_hidden) hidden_touched_[worker] = 0;
      if (pass_.wants_weight) weight_touched_[worker] = 1;
      for (std::int64_t tile = 0; tile < tiles_; ++tile) form_tile(block, tile, worker);
      finish_rows(block, worker, worker + 1, 0, block.rows);
    }
  });
}

template <class T>
void Runner<T>::run_sharing_vocabulary() {
  // In turn, because with rare words at the end of the vocabulary it is the last tiles that the filter leaves out.
  const auto each_tile = [&](const auto& work) {
    at::parallel_for(0, workers_, 1, [&](std::int64_t begin, std::int64_t end) {
      at::AutoDispatchBelowADInplaceOrView guard;
      for (std::int64_t worker = begin; worker < end; ++worker)
        for (std::int64_t tile = worker; tile < tiles_; tile += workers_) work(tile, worker);
    });
  };
  for (std::int64_t index = 0; index < blocks_; ++index) {
    const Block block{index * rows_, std::min(rows_, size_ - index * rows_), 0, index == 0};
    turn_hidden(block);
    if (sums_) {
      each_tile([&](std::int64_t tile, std::int64_t worker) { sum_tile(block, tile, worker); });
      at::parallel_for(0, block.rows, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) combine_row(block, row);
      });
    }
    if (!gradients_) continue;
    std::fill(hidden_touched_.begin(), hidden_touched_.end(), 0);
    std::fill(weight_touched_.begin(), weight_touched_.end(), 1);
    each_tile([&](std::int64_t tile, std::int64_t worker) { form_tile(block, tile, worker); });
    at::parallel_for(0, block.rows, 16, [&](std::int64_t begin, std::int64_t end) {
      finish_rows(block, 0, workers_, begin, end);
    });
  }
}

/// Tiles of the weight gradient from [D, columns] to [columns, D], in place.
template <class T>
void Runner<T>::turn_weight_gradient() {
  if (!turns_ || !weight_touched_[0]) return;
  at::parallel_for(0, tiles_, 1, [&](std::int64_t begin, std::int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t columns = tile_columns(tile), offset = tile_begin(tile) * width_;
      at::Tensor turned = view_of(turned_weight_, at::get_thread_num() * width_ * columns_, width_, columns);
      turned.copy_(view_of(weight_sums_, offset, width_, columns));
      view_of(weight_sums_, offset, columns, width_).copy_(turned.t());
    }
  });
}

template <class T>
void Runner<T>::add_up_workers() {
  if (pass_.wants_weight && !sums_weight_) pass_.d_weight = weight_sums_.view({vocab_size_, width_});
  if (pass_.wants_weight && sums_weight_) {
    Wide* total = weight_sums_.template mutable_data_ptr<Wide>();
    const std::int64_t count = vocab_size_ * width_, slots = weight_sums_.size(0);
    at::parallel_for(0, count, tile_sizes::kElementsPerThread, [&](std::int64_t begin, std::int64_t end) {
      if (!weight_touched_[0]) std::fill(total + begin, total + end, Wide(0));
      for (std::int64_t slot = 1; slot < slots; ++slot) {
        if (!weight_touched_[slot]) continue;
        for (std::int64_t i = begin; i < end; ++i) total[i] += total[slot * count + i];
      }
    });
    turn_weight_gradient();
    pass_.d_weight = slots > 1 ? weight_sums_.select(0, 0).clone() : weight_sums_.view({vocab_size_, width_});
  }
  if (pass_.wants_bias) pass_.d_bias = bias_sums_.sum(0);
  for (std::int64_t count : skipped_) pass_.tiles_skipped += count;
  for (double squares : skipped_squares_) pass_.skipped_square_sum += squares;
  pass_.tiles_seen = gradients_ ? blocks_ * tiles_ : 0;
}

template <class T>
void Runner<T>::run() {
  at::AutoDispatchBelowADInplaceOrView guard;
  shares_rows_ ? run_sharing_rows() : run_sharing_vocabulary();
  add_up_workers();
}

}  // namespace

std::int64_t rows_per_kept_block(std::int64_t vocab_size, at::ScalarType type) {
  const std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(type)) * std::max<std::int64_t>(vocab_size, 1);
  return std::clamp<std::int64_t>(tile_sizes::kBlockBytes / bytes, 1, tile_sizes::kRowsPerBlock);
}

void LogitPass::run() {
  const auto run_as = [&](auto zero) { Runner<decltype(zero)>(*this).run(); };
  if (hidden.scalar_type() == at::kDouble) run_as(double{});
  else if (hidden.scalar_type() == at::kBFloat16) run_as(Bfloat16{});
  else run_as(float{});
}

}  // namespace lmhead
