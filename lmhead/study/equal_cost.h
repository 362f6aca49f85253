// Rows of two arms compared at equal cost, and by what it costs to reach the same.
#pragma once

#include <utility>

#include "lmhead/statistics/curves.h"
#include "lmhead/study/confirmed_rows.h"

namespace lmhead {

enum class Cost { kSteps, kTokens, kFlops, kWallSeconds };
inline constexpr std::pair<Cost, const char*> kCosts[] = {
    {Cost::kSteps, "steps"}, {Cost::kTokens, "tokens"}, {Cost::kFlops, "flops"}, {Cost::kWallSeconds, "wall_seconds"}};

/// The validation curve of a row; empty where the row has none, or not this cost.
LearningCurve learning_curve(const RunRow& row, Cost cost);

/// `budget` (the largest cost that every run reaches; null where there is none), `mean_difference` and
/// `interval` of arm - baseline there, `seeds`, and `left_out`: seeds of which a run has no figure there.
Json difference_at_equal(Cost cost, const RowsBySeed& baseline, const RowsBySeed& arm);

/// For tokens, FLOPs and training time: `ratio`, how many times cheaper than the reference the arm reaches
/// the reference's final outcome (geometric mean over seeds), its `interval`, `seeds`, and `never`: seeds on
/// which it is not reached.
Json cost_ratios(const RowsBySeed& arm, const RowsBySeed& reference, bool higher_is_better);

}  // namespace lmhead
