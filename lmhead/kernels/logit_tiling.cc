#include "lmhead/kernels/logit_tiling.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

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

}  // namespace

LogitTiling tiling_of(const LogitPass& pass, bool keeps_logits) {
  const auto features = std::max<std::int64_t>(1, std::int64_t(pass.feature_ends.size()));
  LogitTiling tiling{.size = pass.rows(), .width = pass.map.weight.size(1), .vocab_size = pass.map.weight.size(0)};
  tiling.features = features;
  tiling.workers = at::in_parallel_region() ? 1 : at::get_num_threads();
  const at::ScalarType type = pass.type();
  tiling.rows = keeps_logits ? rows_per_kept_block(tiling.vocab_size, type) : tile_sizes::kRowsPerBlock;
  const bool packs = type == at::kBFloat16;
  // A block of all rows has narrower tiles where tiles are all that is kept of it.
  const std::int64_t columns = !packs         ? tile_sizes::kColumnsPerTile
                               : keeps_logits ? tile_sizes::kColumnsPerBfloat16Tile
                                              : tile_sizes::kColumnsPerBfloat16Tile / 2;
  if (packs && pass.wants_weight) {
    // One block leaves no products to add up, and takes no more memory than a small one and their float32 sums.
    const std::int64_t row = 2 * (keeps_logits ? tiling.vocab_size : tiling.workers * columns);
    const std::int64_t sums = tiling.vocab_size * tiling.width * std::int64_t{sizeof(float)};
    if (tiling.size * row <= tile_sizes::kBlockBytes + sums) tiling.rows = std::max(tiling.rows, tiling.size);
  }
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
  if (!packs && tiling.columns % tile_sizes::kCrowdedStride == 0) tiling.columns += tile_sizes::kColumnMultiple;
  tiling.columns = std::min(tiling.columns, tiling.vocab_size);
  cut_into_tiles(tiling, pass.feature_ends);
  return tiling;
}

std::int64_t rows_per_kept_block(std::int64_t vocab_size, at::ScalarType type) {
  const std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(type)) * std::max<std::int64_t>(vocab_size, 1);
  return std::clamp<std::int64_t>(tile_sizes::kBlockBytes / bytes, 1, tile_sizes::kRowsPerBlock);
}

}  // namespace lmhead
