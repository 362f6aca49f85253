#include "lmhead/kernels/row_outcomes.h"

#include <cmath>
#include <limits>

namespace lmhead {

RowOutcomes::RowOutcomes(LogitPass& pass, const LogitTiling& tiling, bool sums)
    : pass_(pass), tiling_(tiling), ranges_(pass, tiling, sums) {
  if (!sums) return;
  line_sums_ = std::make_unique_for_overwrite<vector::LineSums[]>(tiling.slots * tiling.tiles * tiling.rows);
  target_logits_.resize(tiling.slots * tiling.rows);
  pass.factors.resize(tiling.size);
}

RowOutcome RowOutcomes::combine(const LogitBlock& block, std::int64_t index) {
  const vector::LineSums* sums = &line_sums_[block.slot * tiling_.tiles * tiling_.rows + index];
  double max = -std::numeric_limits<double>::infinity();
  std::int64_t arg_max = 0;
  for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) {
    if (!(sums[tile * tiling_.rows].max > max)) continue;
    max = sums[tile * tiling_.rows].max;
    arg_max = tiling_.tile_begin(tile) + sums[tile * tiling_.rows].arg_max;
  }
  double sum = 0, entropy = 0;
  for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) {
    const vector::LineSums& part = sums[tile * tiling_.rows];
    if (std::isinf(part.max) && part.max < 0 && part.sum == 0) continue;
    const double difference = part.max - max, share = std::exp(difference);
    sum += part.sum * share;
    if (share > 0) entropy += share * (part.entropy + difference * part.sum);
  }
  RowOutcome outcome{max, max + std::log(sum), target_logits_[block.slot * tiling_.rows + index], 0, 0, false};
  if (pass_.wants_weighted) {
    for (std::int64_t tile = 0; tile < tiling_.tiles; ++tile) {
      const vector::LineSums& part = sums[tile * tiling_.rows];
      const double shift = std::isinf(part.max) && part.max < 0 ? 0 : part.max;
      const double weight = pass_.class_probabilities.defined() ? part.weight : tile_weight_[tile];
      outcome.weighted += (outcome.logsumexp - shift) * weight - part.weighted;
    }
  }
  outcome.entropy = std::log(sum) - entropy / sum;
  outcome.correct = pass_.targets && arg_max == pass_.targets[block.begin + index];
  outcome.range_logsumexp = ranges_.combine(block, index);
  return outcome;
}

}  // namespace lmhead
