// How a pass over logits is cut into blocks of rows and tiles of columns.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace lmhead {

struct LogitPass;

/// How a pass over [size, V] logits is cut.
struct LogitTiling {
  std::int64_t size, width, vocab_size;
  std::int64_t workers, rows, columns, tiles, blocks;  // rows of a block and columns of a tile at most
  std::int64_t slots;                                  // blocks at work at once, each with a weight gradient of its own
  std::int64_t features;                               // how many rows of features a row of logits has
  std::vector<std::int64_t> begins;                    // [tiles + 1], and V
  std::vector<std::int64_t> feature_of;                // [tiles], which of them the tile's words see

  std::int64_t tile_begin(std::int64_t tile) const { return begins[tile]; }
  std::int64_t tile_columns(std::int64_t tile) const { return begins[tile + 1] - begins[tile]; }
};

/// A block of rows.
struct LogitBlock {
  std::int64_t begin, rows;
  std::int64_t slot;
  bool first;  // of those that add to the slot's weight gradient
};

/// `keeps_logits`: all logits of a block are kept at once.
LogitTiling tiling_of(const LogitPass& pass, bool keeps_logits);

/// Rows of kept logits that fit into the block of tile_sizes.h, 512 at most.
std::int64_t rows_per_kept_block(std::int64_t vocab_size, at::ScalarType type);

}  // namespace lmhead
