// What the tiles of a row of logits sum to, and what the row comes to when all have been seen.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/logit_tiling.h"
#include "lmhead/kernels/vector/row_kernels.h"
#include "lmhead/kernels/word_ranges.h"

namespace lmhead {

/// The sums of a pass, where it wants any. Different tiles, and then different rows, may be worked at from different
/// threads.
class RowOutcomes {
 public:
  RowOutcomes(LogitPass& pass, const LogitTiling& tiling, bool sums);

  /// Must be told before rows are combined: [V], or null, where every class weighs 1.
  template <class Wide>
  void weigh_tiles(const Wide* class_weight) {
    for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) {
      const std::int64_t begin = tiling_.tile_begin(tile), columns = tiling_.tile_columns(tile);
      double sum = class_weight ? 0 : static_cast<double>(columns);
      for (std::int64_t column = 0; class_weight && column < columns; ++column) sum += class_weight[begin + column];
      tile_weight_.push_back(sum);
    }
  }
  const WordRanges& ranges() const { return ranges_; }

  /// Sums the line of the block's row `index` in the tile; `weights` of its classes may be null, `target` lies outside
  /// where it is no column of the tile.
  template <class T, class Wide>
  void sum(const vector::LogitKernels<T, Wide>& kernels, const LogitBlock& block, std::int64_t index, std::int64_t tile,
           const Wide* line, const Wide* weights, std::int64_t target, const vector::LineTransform& transform) {
    const std::int64_t columns = tiling_.tile_columns(tile);
    line_sums_[(block.slot * tiling_.tiles + tile) * tiling_.rows + index] =
        kernels.sums(line, columns, weights, pass_.wants_weighted, pass_.wants_more, transform);
    ranges_.sum(kernels, block, index, tile, line, transform);
    if (target >= 0 && target < columns)
      target_logits_[block.slot * tiling_.rows + index] = kernels.logit(line[target], transform);
  }
  /// Of the block's row `index`.
  RowOutcome combine(const LogitBlock& block, std::int64_t index);

 private:
  const LogitPass& pass_;
  const LogitTiling& tiling_;
  WordRanges ranges_;
  std::vector<double> tile_weight_;                // class weight in all of each tile
  std::unique_ptr<vector::LineSums[]> line_sums_;  // [slots, tiles, rows]
  std::vector<double> target_logits_;              // [slots, rows]
};

}  // namespace lmhead
