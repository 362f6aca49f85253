// Every size that decides how the fast kernels cut their work. Nothing but speed, memory and the order of sums
// depends on them.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lmhead::tile_sizes {

/// How many pieces of `by`, the last one maybe smaller, make `value`.
constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// Rows of features that are multiplied at once. A whole block of logits [rows, V] is kept between its two passes.
constexpr std::int64_t kRowsPerBlock = 512;
/// Columns of a tile at most. The products of bfloat16 pack what they read, the others read tiles as they lie
/// (kCrowdedStride).
constexpr std::int64_t kColumnsPerTile = 960;
constexpr std::int64_t kColumnsPerBfloat16Tile = 1024;
/// Tiles are multiples of this, so that each one begins on a cache line.
constexpr std::int64_t kColumnMultiple = 64;
/// Rows that lie this many elements apart, or a multiple of it, fall into few sets of the caches and drive each other
/// out.
constexpr std::int64_t kCrowdedStride = 256;
/// The block of logits is cut to fewer rows where it would take more than this.
constexpr std::int64_t kBlockBytes = std::int64_t{128} << 20;
/// The same for packed products. Where float32 sums of [V, D] would take more than kBlockBytes, one block of all rows
/// is taken up to four times this, and what has no room is computed twice.
constexpr std::int64_t kPackedBlockBytes = std::int64_t{104} << 20;
constexpr std::int64_t kMostOfBlockKept = 4;
/// Rows that go through ATen at once, where nothing is tiled: their logits are at most 64 Mi numbers.
constexpr std::int64_t rows_per_chunk(std::int64_t vocab_size) {
  return std::max<std::int64_t>(1,
                                2 * kBlockBytes / std::int64_t{sizeof(float)} / std::max<std::int64_t>(1, vocab_size));
}
/// Where not even this many rows would fit into the block, logits are recomputed instead.
constexpr std::int64_t kFewestRowsPerBlock = 64;
/// Numbers [rows, D] of features that are made at once (made_rows.h): what their making leaves on the way to the
/// gradient is several times that.
constexpr std::int64_t kMadeElements = std::int64_t{1} << 16;
/// Up to these sizes threads share out rows, each with a weight gradient of its own; beyond, they share out the
/// vocabulary.
constexpr std::int64_t kSharedRowsVocabularyLimit = 8192;
constexpr std::int64_t kSharedRowsWeightLimit = std::int64_t{1} << 19;
/// From so many rows on, turning a tile of the weight costs less than the faster product gains.
constexpr std::int64_t kFewestTurnedRows = 64;
/// Elements that are worth a thread of their own in elementwise and row operations.
constexpr std::int64_t kElementsPerThread = std::int64_t{1} << 14;
/// Attention heads up to this width, on sequences up to this length, take the kernel for narrow heads: its T x T scores
/// then stay in the second-level cache.
constexpr std::int64_t kNarrowHead = 64;
constexpr std::int64_t kShortSequence = 512;

}  // namespace lmhead::tile_sizes
