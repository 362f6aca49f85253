#include "lmhead/kernels/logit_pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "lmhead/base/reused_memory.h"
#include "lmhead/kernels/left_out_tile.h"
#include "lmhead/kernels/logit_tiling.h"
#include "lmhead/kernels/row_outcomes.h"
#include "lmhead/kernels/threads.h"
#include "lmhead/kernels/tile_products.h"
#include "lmhead/kernels/unit_rows.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

using vector::Bfloat16;

template <class T>
class Runner {
  using Wide = WideOf<T>;
  using Block = LogitBlock;
  static constexpr bool kSameType = std::is_same_v<T, Wide>;

 public:
  explicit Runner(LogitPass& pass);
  void run();

 private:
  /// Whether the tile's logits stay from sums to gradient.
  bool keeps(std::int64_t tile) const { return tiling_.kept[tile].offset >= 0; }
  /// The tile's logits, or their gradient, [rows, columns].
  at::Tensor logits_of(const Block& block, std::int64_t tile, std::int64_t worker) const {
    const LogitTiling::Kept& kept = tiling_.kept[tile];
    const std::int64_t columns = tiling_.tile_columns(tile);
    if (kept.in_gradient) return view_of(products_->weight_sums(), kept.offset, block.rows, columns);
    const std::int64_t offset = keeps(tile)
                                    ? block.slot * tiling_.kept_size + kept.offset
                                    : tiling_.slots * tiling_.kept_size + worker * tiling_.rows * tiling_.columns;
    return view_of(logits_, offset, block.rows, columns);
  }
  T* stored_in(const at::Tensor& logits) const { return static_cast<T*>(logits.mutable_data_ptr()); }
  /// Where what is kept of the tile's rows begins.
  std::int64_t rows_offset(const Block& block, std::int64_t tile) const {
    return (block.slot * tiling_.tiles + tile) * tiling_.rows;
  }
  Block block_at(std::int64_t index, std::int64_t slot, bool first) const {
    return {index * tiling_.rows, std::min(tiling_.rows, tiling_.size - index * tiling_.rows), slot, first};
  }

  Wide* finished_line(T* stored, std::int64_t row, std::int64_t tile, std::int64_t worker, bool finished_in_place);
  const Wide* weights_of(std::int64_t row, std::int64_t tile, std::int64_t worker);
  vector::LineTransform transform_of(std::int64_t row) const {
    return {pass_.map.transform, pass_.inverse_temperature.empty() ? 1 : pass_.inverse_temperature[row],
            pass_.pieces.count > 0 ? &pass_.pieces : nullptr};
  }
  /// The target's column in the tile, or a number that no column has.
  std::int64_t target_of(std::int64_t row, std::int64_t tile) const {
    return pass_.targets ? pass_.targets[row] - tiling_.tile_begin(tile) : -1;
  }
  void scale_line(Wide* line, std::int64_t tile) const;
  void leave_out_absent(Wide* line, std::int64_t row, std::int64_t tile) const;
  void begin_block(const Block& block);
  void finish_block(const Block& block, std::int64_t first_worker);
  void sum_tile(const Block& block, std::int64_t tile, std::int64_t worker);
  void combine_rows(const Block& block, std::int64_t begin, std::int64_t end);
  void form_tile(const Block& block, std::int64_t tile, std::int64_t worker);
  void form_line(Wide* line, std::int64_t row, std::int64_t tile, std::int64_t worker);
  bool form_gradient(const Block& block, std::int64_t tile, std::int64_t worker, const at::Tensor& logits);
  double leave_out(const Block& block, std::int64_t tile, std::int64_t worker, T* stored);
  void finish_rows(const Block& block, std::int64_t first_worker, std::int64_t last_worker, std::int64_t begin,
                   std::int64_t end);
  void run_sharing_rows();
  void run_sharing_vocabulary();
  void finish();

  LogitPass& pass_;
  const vector::LogitKernels<T, Wide>& kernels_ = logit_kernels<T>();
  bool makes_, sums_, gradients_, needs_finish_;
  LogitTiling tiling_;
  std::unique_ptr<TileProducts<T>> products_;
  at::Tensor unit_scale_, bias_, class_weight_, class_probabilities_;

  at::Tensor logits_, lines_, weight_lines_;  // scratch
  at::Tensor bias_sums_;                      // [slots, V]
  RowOutcomes outcomes_;
  std::vector<double> squares_;                  // [slots, tiles, rows]
  std::vector<std::vector<LinePiece>> pieces_;   // [workers], scratch
  std::vector<std::vector<double>> slope_sums_;  // [workers], of the pieces
  std::vector<std::int64_t> skipped_;            // [workers]
  std::vector<double> skipped_squares_;          // [workers]
  std::vector<std::vector<Wide>> scratch_;       // [workers], of tiles that are left out
};

template <class T>
Runner<T>::Runner(LogitPass& pass)
    : pass_(pass),
      makes_(!pass.hidden.defined()),
      sums_(pass.on_row || pass.on_group),
      gradients_(pass.wants_hidden || pass.wants_weight || pass.wants_bias || pass.wants_squares || pass.wants_slopes ||
                 pass.take_gradients),
      needs_finish_(pass.map.bias.defined() || changes_logits(pass.map.transform) ||
                    !pass.inverse_temperature.empty() || pass.pieces.count > 0),
      tiling_(tiling_of(pass, sums_ && gradients_)),
      outcomes_(pass, tiling_, sums_) {
  products_ =
      make_tile_products<T>(pass, tiling_, tiling_.blocks != 1 || tiling_.slots > 1 || pass.filter_threshold > 0);
  const at::ScalarType wide = c10::CppTypeToScalarType<Wide>::value;
  if (pass.unit_rows) unit_scale_ = unit_row_scale(pass.map.weight, wide);
  if (pass.map.bias.defined()) bias_ = pass.map.bias.detach().to(wide).contiguous();
  if (pass.class_weight.defined()) class_weight_ = pass.class_weight.detach().to(wide).contiguous();
  if (pass.class_probabilities.defined()) {
    class_probabilities_ = pass.class_probabilities.detach().to(wide).contiguous();
    weight_lines_ = at::empty({tiling_.workers, tiling_.columns}, wide);
  }
  outcomes_.weigh_tiles(class_weight_.defined() ? class_weight_.template const_data_ptr<Wide>() : nullptr);

  const bool forms_again = std::any_of(tiling_.kept.begin(), tiling_.kept.end(),
                                       [](const LogitTiling::Kept& kept) { return kept.offset < 0; });
  logits_ = reused_memory(
      tiling_.slots * tiling_.kept_size + (forms_again ? tiling_.workers * tiling_.rows * tiling_.columns : 0),
      pass.type());
  if (!kSameType) lines_ = at::empty({tiling_.workers, tiling_.columns}, wide);
  if (pass.wants_squares)
    squares_.resize(tiling_.slots * tiling_.tiles * tiling_.rows),
        pass.squares = at::zeros({tiling_.size}, at::kDouble);
  if (pass.wants_hidden && !makes_) pass.d_hidden = at::empty({tiling_.features * tiling_.size, tiling_.width}, wide);
  if (pass.wants_bias) bias_sums_ = at::zeros({tiling_.slots, tiling_.vocab_size}, at::kDouble);
  if (pass.wants_slopes) slope_sums_.assign(tiling_.workers, std::vector<double>(pass.pieces.count));
  skipped_.resize(tiling_.workers), skipped_squares_.resize(tiling_.workers), scratch_.resize(tiling_.workers);
  pieces_.resize(tiling_.workers);
}

/// The line with bias, transform and temperature applied: `stored` itself where types agree, else the worker's scratch.
template <class T>
WideOf<T>* Runner<T>::finished_line(T* stored, std::int64_t row, std::int64_t tile, std::int64_t worker,
                                    bool finished_in_place) {
  Wide* line;
  if constexpr (kSameType) {
    line = stored;
    if (finished_in_place) return line;
  } else {
    line = lines_.template mutable_data_ptr<Wide>() + worker * tiling_.columns;
  }
  if (needs_finish_ || !kSameType) {
    const Wide* bias = bias_.defined() ? bias_.template const_data_ptr<Wide>() + tiling_.tile_begin(tile) : nullptr;
    kernels_.load(stored, bias, tiling_.tile_columns(tile), transform_of(row), line);
  }
  scale_line(line, tile);
  if (!pass_.absent_begin.empty()) leave_out_absent(line, row, tile);
  return line;
}

/// By what makes the tile's words of length 1.
template <class T>
void Runner<T>::scale_line(Wide* line, std::int64_t tile) const {
  if (!pass_.unit_rows) return;
  const Wide* scale = unit_scale_.template const_data_ptr<Wide>() + tiling_.tile_begin(tile);
  for (std::int64_t column = 0; column < tiling_.tile_columns(tile); ++column) line[column] *= scale[column];
}

template <class T>
void Runner<T>::leave_out_absent(Wide* line, std::int64_t row, std::int64_t tile) const {
  const std::int64_t begin = tiling_.tile_begin(tile), end = begin + tiling_.tile_columns(tile);
  const auto last = pass_.absent.begin() + pass_.absent_begin[row + 1];
  for (auto id = std::lower_bound(pass_.absent.begin() + pass_.absent_begin[row], last, begin); id != last && *id < end;
       ++id)
    line[*id - begin] = -std::numeric_limits<Wide>::infinity();
}

/// What weighs the tile's classes in this row; null: nothing does.
template <class T>
const WideOf<T>* Runner<T>::weights_of(std::int64_t row, std::int64_t tile, std::int64_t worker) {
  const std::int64_t begin = tiling_.tile_begin(tile), columns = tiling_.tile_columns(tile);
  const Wide* weights = class_weight_.defined() ? class_weight_.template const_data_ptr<Wide>() + begin : nullptr;
  if (!class_probabilities_.defined()) return weights;
  const Wide* given = class_probabilities_.template const_data_ptr<Wide>() + row * tiling_.vocab_size + begin;
  if (!weights && pass_.label_smoothing == 0) return given;
  Wide* line = weight_lines_.template mutable_data_ptr<Wide>() + worker * tiling_.columns;
  const Wide share = static_cast<Wide>(1 - pass_.label_smoothing);
  const Wide rest = static_cast<Wide>(pass_.label_smoothing / static_cast<double>(tiling_.vocab_size));
  for (std::int64_t column = 0; column < columns; ++column)
    line[column] = (share * given[column] + rest) * (weights ? weights[column] : Wide(1));
  return line;
}

template <class T>
void Runner<T>::begin_block(const Block& block) {
  products_->begin_block(block,
                         makes_ ? pass_.make_features(block.slot, block.begin, block.rows) : std::vector<at::Tensor>());
}

template <class T>
void Runner<T>::finish_block(const Block& block, std::int64_t first_worker) {
  if (!pass_.take_gradients) return;
  std::vector<at::Tensor> gradients;
  for (std::int64_t feature = 0; feature < tiling_.features; ++feature)
    gradients.push_back(products_->hidden_sum_of(first_worker, feature, block.rows));
  pass_.take_gradients(block.slot, block.begin, block.rows, gradients);
}

template <class T>
void Runner<T>::sum_tile(const Block& block, std::int64_t tile, std::int64_t worker) {
  const at::Tensor logits = logits_of(block, tile, worker);
  T* stored = stored_in(logits);
  const std::int64_t columns = tiling_.tile_columns(tile), at_once = products_->rows_at_once();
  for (std::int64_t index = 0; index < block.rows; ++index) {
    if (index % at_once == 0) products_->form_logits(block, tile, worker, index, logits);
    const std::int64_t row = block.begin + index;
    const Wide* line = finished_line(stored + index * columns, row, tile, worker, false);
    outcomes_.sum(kernels_, block, index, tile, line, weights_of(row, tile, worker), target_of(row, tile),
                  transform_of(row));
  }
}

/// Rows [begin, end) of the block, which end where groups do.
template <class T>
void Runner<T>::combine_rows(const Block& block, std::int64_t begin, std::int64_t end) {
  if (pass_.on_row) {
    for (std::int64_t row = begin; row < end; ++row)
      pass_.factors[block.begin + row] = pass_.on_row(block.begin + row, outcomes_.combine(block, row));
    return;
  }
  std::vector<RowOutcome> outcomes(pass_.group);
  for (std::int64_t first = begin; first < end; first += pass_.group) {
    for (std::int64_t row = 0; row < pass_.group; ++row) outcomes[row] = outcomes_.combine(block, first + row);
    pass_.on_group(block.begin + first, outcomes.data(), &pass_.factors[block.begin + first]);
  }
}

/// Turns the line of `row` in the tile into its gradient in place, piece by piece.
template <class T>
void Runner<T>::form_line(Wide* line, std::int64_t row, std::int64_t tile, std::int64_t worker) {
  const RowFactors& factors = pass_.factors[row];
  const std::int64_t target = target_of(row, tile);
  const Wide* weights = weights_of(row, tile, worker);
  outcomes_.ranges().cut(row, tile, pieces_[worker]);
  for (const LinePiece& piece : pieces_[worker])
    kernels_.gradient(line + piece.from, piece.to - piece.from,
                      {piece.shift, piece.probability, factors.smoothing, factors.target, target - piece.from,
                       piece.moment, pass_.wants_slopes ? slope_sums_[worker].data() : nullptr},
                      weights ? weights + piece.from : nullptr, transform_of(row));
}

/// Turns the tile's logits, formed again where they were not kept, into gradients in place; false where the filter says
/// that its products may be skipped.
template <class T>
bool Runner<T>::form_gradient(const Block& block, std::int64_t tile, std::int64_t worker, const at::Tensor& logits) {
  T* stored = stored_in(logits);
  const std::int64_t begin = tiling_.tile_begin(tile), columns = tiling_.tile_columns(tile);
  const std::int64_t at_once = products_->rows_at_once();
  const bool filters = pass_.filter_threshold > 0;
  bool matters = !filters;
  for (std::int64_t index = 0; index < block.rows; ++index) {
    if (!keeps(tile) && index % at_once == 0) products_->form_logits(block, tile, worker, index, logits);
    const std::int64_t row = block.begin + index, target = target_of(row, tile);
    const RowFactors& factors = pass_.factors[row];
    Wide* line = finished_line(stored + index * columns, row, tile, worker, keeps(tile));
    form_line(line, row, tile, worker);
    if (filters && !matters) {
      // The target's own entry never counts: a tile that is left out adds it all the same.
      const bool has_target = target >= 0 && target < columns;
      const Wide of_target = has_target ? std::exchange(line[target], Wide(0)) : Wide(0);
      const double limit = pass_.filter_threshold * std::abs(factors.target);
      matters = !(static_cast<double>(kernels_.magnitude(line, columns)) <= limit);
      if (has_target) line[target] = of_target;
    }
    if (pass_.wants_squares) squares_[rows_offset(block, tile) + index] = kernels_.dot(line, line, columns);
    if (pass_.wants_bias)
      kernels_.add_to_double(line, columns,
                             bias_sums_.template mutable_data_ptr<double>() + block.slot * tiling_.vocab_size + begin);
    scale_line(line, tile);
    if constexpr (!kSameType) kernels_.store(line, columns, stored + index * columns);
  }
  return matters;
}

template <class T>
void Runner<T>::form_tile(const Block& block, std::int64_t tile, std::int64_t worker) {
  const at::Tensor logits = logits_of(block, tile, worker);
  if (form_gradient(block, tile, worker, logits)) {
    if (pass_.wants_hidden) products_->add_to_hidden(block, tile, worker, logits);
    if (pass_.wants_weight) products_->add_to_weight(block, tile, worker, logits);
    return;
  }
  skipped_[worker] += 1;
  skipped_squares_[worker] += leave_out(block, tile, worker, stored_in(logits));
}

/// Adds what stands for a tile whose products are left out; the sum of squares of what does not.
template <class T>
double Runner<T>::leave_out(const Block& block, std::int64_t tile, std::int64_t worker, T* stored) {
  const std::int64_t begin = tiling_.tile_begin(tile), width = tiling_.width;
  const LeftOutTile<T, Wide> left_out{
      .gradients = stored,
      .rows = block.rows,
      .columns = tiling_.tile_columns(tile),
      .width = width,
      .targets = pass_.targets + block.begin,
      .factors = pass_.factors.data() + block.begin,
      .limit = pass_.filter_threshold,
      .first_id = begin,
      .has_slope = bends_logits(pass_.map.transform),
      .weight = static_cast<const T*>(pass_.map.weight.const_data_ptr()) + begin * width,
      .hidden = static_cast<const T*>(pass_.hidden.const_data_ptr()) + block.begin * width,
      .d_hidden = pass_.wants_hidden ? products_->begun_hidden_sum(block, tile, worker) : nullptr,
      .d_weight = pass_.wants_weight ? products_->begun_weight_sum(block, tile) : nullptr,
      .weight_is_turned = products_->weight_is_turned()};
  return left_out.add(kernels_, logit_kernels<Wide>(), scratch_[worker]);
}

/// Adds up what the workers have for rows [begin, end) of the block, always in the same order.
template <class T>
void Runner<T>::finish_rows(const Block& block, std::int64_t first_worker, std::int64_t last_worker, std::int64_t begin,
                            std::int64_t end) {
  if (pass_.wants_squares) {
    for (std::int64_t row = begin; row < end; ++row) {
      double sum = 0;
      for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) sum += squares_[rows_offset(block, tile) + row];
      pass_.squares.template mutable_data_ptr<double>()[block.begin + row] = sum;
    }
  }
  const std::int64_t count = (end - begin) * tiling_.width;
  for (std::int64_t feature = 0; pass_.wants_hidden && feature < tiling_.features; ++feature) {
    // Those of made features stay where the first worker has them.
    Wide* result = makes_ ? products_->hidden_sum(first_worker, feature) + begin * tiling_.width
                          : pass_.d_hidden.template mutable_data_ptr<Wide>() +
                                (feature * tiling_.size + block.begin + begin) * tiling_.width;
    bool first = true;
    for (std::int64_t worker = first_worker; worker < last_worker; ++worker) {
      if (!products_->has_hidden(worker, feature)) continue;
      const Wide* part = products_->hidden_sum(worker, feature) + begin * tiling_.width;
      if (!first)
        for (std::int64_t i = 0; i < count; ++i) result[i] += part[i];
      else if (part != result) std::copy_n(part, count, result);
      first = false;
    }
    if (first) std::fill_n(result, count, Wide(0));
  }
}

template <class T>
void Runner<T>::run_sharing_rows() {
  at::parallel_for(0, tiling_.blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const std::int64_t worker = at::get_thread_num();
    for (std::int64_t index = begin; index < end; ++index) {
      const Block block = block_at(index, worker, index == begin);
      begin_block(block);
      if (sums_) {
        for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) sum_tile(block, tile, worker);
        combine_rows(block, 0, block.rows);
      }
      if (!gradients_) continue;
      if (pass_.wants_hidden) products_->forget_hidden(worker);
      for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) form_tile(block, tile, worker);
      finish_rows(block, worker, worker + 1, 0, block.rows);
      finish_block(block, worker);
    }
    products_->rest();
  });
}

template <class T>
void Runner<T>::run_sharing_vocabulary() {
  const std::int64_t workers = tiling_.workers;
  const auto each_tile = [&](const auto& work) {
    at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
      at::AutoDispatchBelowADInplaceOrView guard;
      for (std::int64_t worker = begin; worker < end; ++worker) {
        const LogitTiling::Share share = tiling_.share_of(worker);
        for (std::int64_t tile = share.first; tile < share.last; tile += share.step) work(tile, worker);
      }
      products_->rest();
    });
  };
  for (std::int64_t index = 0; index < tiling_.blocks; ++index) {
    const Block block = block_at(index, 0, index == 0);
    begin_block(block);
    if (sums_) {
      each_tile([&](std::int64_t tile, std::int64_t worker) { sum_tile(block, tile, worker); });
      const std::int64_t group = pass_.group;
      at::parallel_for(0, block.rows / group, std::max<std::int64_t>(1, 16 / group),
                       [&](std::int64_t begin, std::int64_t end) { combine_rows(block, begin * group, end * group); });
    }
    if (!gradients_) continue;
    for (std::int64_t worker = 0; pass_.wants_hidden && worker < workers; ++worker) products_->forget_hidden(worker);
    each_tile([&](std::int64_t tile, std::int64_t worker) { form_tile(block, tile, worker); });
    at::parallel_for(0, block.rows, 16,
                     [&](std::int64_t begin, std::int64_t end) { finish_rows(block, 0, workers, begin, end); });
    finish_block(block, 0);
  }
}

template <class T>
void Runner<T>::finish() {
  if (pass_.wants_weight) pass_.d_weight = products_->finished_weight();
  if (pass_.wants_weight && pass_.unit_rows) take_out_lengths(pass_.map.weight, unit_scale_, pass_.d_weight);
  if (pass_.wants_bias) pass_.d_bias = bias_sums_.sum(0);
  if (pass_.wants_slopes) pass_.d_slopes.assign(pass_.pieces.count, 0);
  for (const std::vector<double>& sums : slope_sums_)
    for (std::size_t piece = 0; piece < sums.size(); ++piece) pass_.d_slopes[piece] += sums[piece];
  for (std::int64_t count : skipped_) pass_.tiles_skipped += count;
  for (double squares : skipped_squares_) pass_.skipped_square_sum += squares;
  pass_.tiles_seen = gradients_ ? tiling_.blocks * tiling_.tiles : 0;
}

template <class T>
void Runner<T>::run() {
  at::AutoDispatchBelowADInplaceOrView guard;
  tiling_.slots > 1 ? run_sharing_rows() : run_sharing_vocabulary();
  finish();
}

}  // namespace

void LogitPass::run() {
  const auto run_as = [&](auto zero) { Runner<decltype(zero)>(*this).run(); };
  if (type() == at::kDouble) run_as(double{});
  else if (type() == at::kBFloat16) run_as(Bfloat16{});
  else run_as(float{});
}

}  // namespace lmhead
