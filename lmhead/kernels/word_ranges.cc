#include "lmhead/kernels/word_ranges.h"

#include <algorithm>
#include <cmath>

namespace lmhead {

WordRanges::WordRanges(LogitPass& pass, const LogitTiling& tiling, bool sums)
    : pass_(pass), tiling_(tiling), count_(pass.ranges_per_row) {
  if (!sums || count_ == 0) return;
  sums_.resize(tiling.slots * tiling.tiles * tiling.rows * count_);
  logsumexps_.resize(tiling.slots * tiling.rows * count_);
  pass.range_factors.resize(tiling.size * count_);
}

std::pair<std::int64_t, std::int64_t> WordRanges::columns_of(std::int64_t row, std::int64_t range,
                                                             std::int64_t tile) const {
  const WordRange& words = pass_.ranges[row * count_ + range];
  const std::int64_t begin = tiling_.tile_begin(tile);
  return {std::max(words.begin - begin, std::int64_t{0}), std::min(words.end - begin, tiling_.tile_columns(tile))};
}

const double* WordRanges::combine(const LogitBlock& block, std::int64_t index) {
  if (count_ == 0) return nullptr;
  double* results = &logsumexps_[(block.slot * tiling_.rows + index) * count_];
  for (std::int64_t range = 0; range < count_; ++range) {
    Sums whole;
    for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) {
      const Sums& part = sums_[place(block, tile, index) + range];
      if (part.sum == 0) continue;
      const double max = std::max(whole.max, part.max);
      whole = {max, whole.sum * std::exp(whole.max - max) + part.sum * std::exp(part.max - max)};
    }
    results[range] = whole.max + std::log(whole.sum);
  }
  return results;
}

LinePiece WordRanges::piece_of(std::int64_t row, std::int64_t tile, std::int64_t from, std::int64_t to) const {
  const RowFactors& factors = pass_.factors[row];
  const double share = std::exp(factors.max - factors.logsumexp);
  const auto each_range = [&](const auto& use) {
    for (std::int64_t range = 0; range < count_; ++range) {
      const RangeFactor& factor = pass_.range_factors[row * count_ + range];
      const auto [begin, end] = columns_of(row, range, tile);
      if (begin <= from && to <= end && factor.probability != 0) use(factor);
    }
  };
  // No logit exceeds the logsumexp of a range that it lies in: with the least of these as shift nothing overflows.
  bool is_covered = false;
  double least = factors.logsumexp;
  each_range([&](const RangeFactor& factor) { is_covered = true, least = std::min(least, factor.logsumexp); });
  if (!is_covered) return {from, to, factors.max, factors.probability * share, factors.moment * share};
  double probability = factors.probability * std::exp(least - factors.logsumexp);
  each_range(
      [&](const RangeFactor& factor) { probability += factor.probability * std::exp(least - factor.logsumexp); });
  return {from, to, least, probability, 0};
}

void WordRanges::cut(std::int64_t row, std::int64_t tile, std::vector<LinePiece>& pieces) const {
  pieces.clear();
  const std::int64_t columns = tiling_.tile_columns(tile);
  for (std::int64_t from = 0; from < columns;) {
    std::int64_t to = columns;
    for (std::int64_t range = 0; range < count_; ++range) {
      const auto [begin, end] = columns_of(row, range, tile);
      if (begin >= end) continue;
      if (begin > from) to = std::min(to, begin);
      if (end > from) to = std::min(to, end);
    }
    pieces.push_back(piece_of(row, tile, from, to));
    from = to;
  }
}

}  // namespace lmhead
