#include "lmhead/kernels/logit_tiling.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/packed_product.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

using tile_sizes::divide_up;

/// Tiles of at most `columns` words, in none of which words see different features.
void cut_into_tiles(LogitTiling& tiling, const std::vector<std::int64_t>& feature_ends) {
  std::int64_t begin = 0;
  for (std::int64_t feature = 0; feature < tiling.features; ++feature) {
    const std::int64_t end = feature_ends.empty() ? tiling.vocab_size : feature_ends[feature];
    for (; begin < end; begin = std::min(end, begin + tiling.columns)) {
      tiling.begins.push_back(begin);
      tiling.feature_of.push_back(feature);
    }
  }
  tiling.begins.push_back(tiling.vocab_size);
  tiling.tiles = std::int64_t(tiling.feature_of.size());
}

/// Rows of a block that also gives the weight's gradient. One block of all rows leaves nothing to add up; of packed
/// products it keeps as many logits as there is room for, some of them in that gradient's own memory.
std::int64_t bfloat16_rows(const LogitPass& pass, const LogitTiling& tiling, bool keeps_logits, std::int64_t columns) {
  const std::int64_t row = 2 * (keeps_logits ? tiling.vocab_size : tiling.workers * columns);
  const std::int64_t sums = tiling.vocab_size * tiling.width * std::int64_t{sizeof(float)};
  if (!tiling.packed || !keeps_logits)
    return tiling.size * row <= tile_sizes::kBlockBytes + sums ? std::max(tiling.rows, tiling.size) : tiling.rows;
  const bool has_room = tiling.features == 1 && !tiling.in_turn;
  const std::int64_t kept = row * std::max<std::int64_t>(tiling.size - (has_room ? tiling.width : 0), 0);
  const std::int64_t limit = sums > tile_sizes::kBlockBytes
                                 ? tile_sizes::kMostOfBlockKept * tile_sizes::kPackedBlockBytes
                                 : tile_sizes::kPackedBlockBytes;
  if (kept <= limit) return std::max(tiling.rows, tiling.size);
  return std::max<std::int64_t>(1, tile_sizes::kPackedBlockBytes / row);
}

/// `in_gradient`: the weight's gradient has memory that nothing is written to before.
void keep_logits(LogitTiling& tiling, bool keeps_logits, bool in_gradient) {
  tiling.kept.resize(tiling.tiles);
  tiling.kept_size = 0;
  if (!keeps_logits) return;
  const auto keep = [&](std::int64_t tile) {
    tiling.kept[tile].offset = tiling.kept_size;
    tiling.kept_size += tiling.rows * tiling.tile_columns(tile);
  };
  const bool is_one_block = tiling.packed && tiling.slots == 1 && tiling.blocks == 1;
  if (!is_one_block) {
    for (std::int64_t tile = 0; tile < tiling.tiles; ++tile) keep(tile);
    return;
  }
  const std::int64_t room = tile_sizes::kPackedBlockBytes / 2 / tiling.workers;
  for (std::int64_t worker = 0; worker < tiling.workers; ++worker) {
    const LogitTiling::Share share = tiling.share_of(worker);
    if (share.first == share.last) continue;
    // A worker's tiles get their gradient in turn: it reaches no further than those whose logits were done with.
    std::int64_t offset = tiling.begins[share.first] * tiling.width;
    const std::int64_t end = tiling.begins[share.last] * tiling.width, kept_before = tiling.kept_size;
    bool fits = in_gradient;  // no tile after one that did not: the gradient would be there before it is read
    for (std::int64_t tile = share.first; tile < share.last; tile += share.step) {
      const std::int64_t columns = tiling.tile_columns(tile);
      fits = fits && offset + tiling.rows * columns <= end;
      if (fits) {
        tiling.kept[tile] = {offset, true};
        offset += std::max(tiling.rows, tiling.width) * columns;
      } else if (tiling.kept_size - kept_before + tiling.rows * columns <= room) {
        keep(tile);
      }
    }
  }
}

}  // namespace

LogitTiling tiling_of(const LogitPass& pass, bool keeps_logits) {
  const auto features = std::max<std::int64_t>(1, std::int64_t(pass.feature_ends.size()));
  LogitTiling tiling{.size = pass.rows(), .width = pass.map.weight.size(1), .vocab_size = pass.map.weight.size(0)};
  tiling.features = features;
  tiling.workers = at::in_parallel_region() ? 1 : at::get_num_threads();
  const at::ScalarType type = pass.type();
  tiling.rows = keeps_logits ? rows_per_kept_block(tiling.vocab_size, type) : tile_sizes::kRowsPerBlock;
  const bool is_bfloat16 = type == at::kBFloat16;
  tiling.packed =
      is_bfloat16 && has_packed_product() && tiling.width % 2 == 0 && tiling.size >= tile_sizes::kFewestTurnedRows;
  // With rare words at the end of the vocabulary it is the last tiles that a filter leaves out.
  tiling.in_turn = !tiling.packed || pass.filter_threshold > 0;
  // A block of all rows has narrower tiles where tiles are all that is kept of it.
  const std::int64_t columns = !is_bfloat16                    ? tile_sizes::kColumnsPerTile
                               : keeps_logits || tiling.packed ? tile_sizes::kColumnsPerBfloat16Tile
                                                               : tile_sizes::kColumnsPerBfloat16Tile / 2;
  if (is_bfloat16 && pass.wants_weight) tiling.rows = bfloat16_rows(pass, tiling, keeps_logits, columns);
  const bool shares_rows = tiling.workers > 1 && tiling.vocab_size <= tile_sizes::kSharedRowsVocabularyLimit &&
                           tiling.vocab_size * tiling.width <= tile_sizes::kSharedRowsWeightLimit;
  tiling.slots = shares_rows ? tiling.workers : 1;
  // Blocks of about the same size, as many for each slot.
  const std::int64_t rounds = std::max<std::int64_t>(1, divide_up(tiling.size, tiling.slots * tiling.rows));
  tiling.rows = std::max<std::int64_t>(1, divide_up(tiling.size, tiling.slots * rounds));
  tiling.rows = divide_up(tiling.rows, pass.group) * pass.group;  // no block ends within a group
  tiling.blocks = divide_up(tiling.size, tiling.rows);

  tiling.tiles = divide_up(tiling.vocab_size, columns);
  if (!shares_rows) tiling.tiles = divide_up(tiling.tiles, tiling.workers) * tiling.workers;
  tiling.columns =
      divide_up(divide_up(tiling.vocab_size, tiling.tiles), tile_sizes::kColumnMultiple) * tile_sizes::kColumnMultiple;
  if (!is_bfloat16 && tiling.columns % tile_sizes::kCrowdedStride == 0) tiling.columns += tile_sizes::kColumnMultiple;
  tiling.columns = std::min(tiling.columns, tiling.vocab_size);
  cut_into_tiles(tiling, pass.feature_ends);
  keep_logits(tiling, keeps_logits, pass.wants_weight && tiling.features == 1 && !tiling.in_turn);
  return tiling;
}

std::int64_t rows_per_kept_block(std::int64_t vocab_size, at::ScalarType type) {
  const std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(type)) * std::max<std::int64_t>(vocab_size, 1);
  return std::clamp<std::int64_t>(tile_sizes::kBlockBytes / bytes, 1, tile_sizes::kRowsPerBlock);
}

}  // namespace lmhead
