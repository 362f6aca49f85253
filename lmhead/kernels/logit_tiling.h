// How a pass over logits is cut into blocks of rows and tiles of columns.
#pragma once

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace lmhead {

struct LogitPass;

/// How a pass over [size, V] logits is cut.
struct LogitTiling {
  std::int64_t size, width, vocab_size;
  std::int64_t workers, rows, columns, tiles, blocks;  // rows of a block and columns of a tile at most
  std::int64_t slots;                                  // blocks at work at once, each with a weight gradient of its own
  bool packed;                                         // products by packed_product.h
  bool in_turn;                                        // whether workers take tiles in turn
  std::int64_t features;                               // how many rows of features a row of logits has
  std::vector<std::int64_t> begins;                    // [tiles + 1], and V
  std::vector<std::int64_t> feature_of;                // [tiles], which of them the tile's words see

  /// Where a tile's logits stay from sums to gradient: numbers from the beginning of the slot's kept ones, or of the
  /// weight's gradient, which is not yet needed there.
  struct Kept {
    std::int64_t offset = -1;  // below 0: they are formed again
    bool in_gradient = false;
  };
  std::vector<Kept> kept;  // [tiles]
  std::int64_t kept_size;  // numbers of a slot that are kept, but for those in the gradient

  std::int64_t tile_begin(std::int64_t tile) const { return begins[tile]; }
  /// Tiles [first, last) of a worker where the vocabulary is shared, by steps of `step`.
  struct Share {
    std::int64_t first, last, step;
  };
  Share share_of(std::int64_t worker) const {
    if (in_turn) return {worker, tiles, workers};
    const std::int64_t each = (tiles + workers - 1) / workers;
    return {std::min(worker * each, tiles), std::min((worker + 1) * each, tiles), 1};
  }
  std::int64_t tile_columns(std::int64_t tile) const { return begins[tile + 1] - begins[tile]; }
};

/// A block of rows.
struct LogitBlock {
  std::int64_t begin, rows;
  std::int64_t slot;
  bool first;  // of those that add to the slot's weight gradient
};

/// `keeps_logits`: of a block all logits are kept between sums and gradient, or in one block of packed products those
/// of the tiles that there is room for.
LogitTiling tiling_of(const LogitPass& pass, bool keeps_logits);

/// Rows of kept logits that fit into the block of tile_sizes.h, 512 at most.
std::int64_t rows_per_kept_block(std::int64_t vocab_size, at::ScalarType type);

}  // namespace lmhead
