// Runs of words that a row of logits is summed over by themselves, beside the whole.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/logit_tiling.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {

/// A piece of a row's line in a tile, columns [from, to), with the factors of LineGradient that hold in it.
struct LinePiece {
  std::int64_t from, to;
  double shift, probability, moment;
};

/// The ranges of a pass, tile by tile. Different tiles, and then different rows, may be worked at from different
/// threads.
class WordRanges {
 public:
  WordRanges(LogitPass& pass, const LogitTiling& tiling, bool sums);

  /// What lies in the tile of the ranges of the block's row `index`, whose line this is.
  template <class T, class Wide>
  void sum(const vector::LogitKernels<T, Wide>& kernels, const LogitBlock& block, std::int64_t index, std::int64_t tile,
           const Wide* line, const vector::LineTransform& transform) {
    for (std::int64_t range = 0; range < count_; ++range) {
      const auto [from, to] = columns_of(block.begin + index, range, tile);
      Sums& sums = sums_[place(block, tile, index) + range];
      sums = {};
      if (from >= to) continue;
      const vector::LineSums found = kernels.sums(line + from, to - from, nullptr, false, false, transform);
      sums = {found.max, found.sum};
    }
  }
  /// The logsumexps of a row of the block when all its tiles have been seen; null where there are no ranges.
  const double* combine(const LogitBlock& block, std::int64_t index);
  /// Pieces of the tile's line in each of which the row's gradient has the same factors.
  void cut(std::int64_t row, std::int64_t tile, std::vector<LinePiece>& pieces) const;

 private:
  struct Sums {
    double max = -std::numeric_limits<double>::infinity(), sum = 0;
  };
  std::int64_t place(const LogitBlock& block, std::int64_t tile, std::int64_t index) const {
    return ((block.slot * tiling_.tiles + tile) * tiling_.rows + index) * count_;
  }
  /// The columns [from, to) of the tile that lie in the range; from >= to: none.
  std::pair<std::int64_t, std::int64_t> columns_of(std::int64_t row, std::int64_t range, std::int64_t tile) const;
  LinePiece piece_of(std::int64_t row, std::int64_t tile, std::int64_t from, std::int64_t to) const;

  const LogitPass& pass_;
  const LogitTiling& tiling_;
  std::int64_t count_;              // of ranges a row
  std::vector<Sums> sums_;          // [slots, tiles, rows, count]
  std::vector<double> logsumexps_;  // [slots, rows, count]
};

}  // namespace lmhead
