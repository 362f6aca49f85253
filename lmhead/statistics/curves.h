// Two runs at the same cost: learning curves read at equal steps, tokens, arithmetic or time.
#pragma once

#include <optional>
#include <vector>

namespace lmhead {

/// The outcome of one run over what it cost so far; costs are positive and ascending.
struct LearningCurve {
  std::vector<double> cost, outcome;
  bool empty() const { return cost.empty(); }
};

/// The outcome at `cost`, linear in the logarithm of the cost between points; nothing before the first point,
/// after the last one, and where a point beside it is not finite.
std::optional<double> outcome_at(const LearningCurve& curve, double cost);

/// The first cost at which the outcome is at least as good as `target`, by the same interpolation; at a first
/// point that is good enough already, its cost, since nothing is known before it. Nothing where the target is
/// never reached.
std::optional<double> cost_to_reach(const LearningCurve& curve, double target, bool higher_is_better);

/// The largest cost that every curve reaches; nothing where there are no curves or one is empty.
std::optional<double> largest_common_cost(const std::vector<LearningCurve>& curves);

}  // namespace lmhead
