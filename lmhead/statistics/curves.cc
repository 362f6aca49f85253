#include "lmhead/statistics/curves.h"

#include <algorithm>
#include <cmath>

namespace lmhead {

std::optional<double> outcome_at(const LearningCurve& curve, double cost) {
  const auto& costs = curve.cost;
  const auto after = std::lower_bound(costs.begin(), costs.end(), cost);
  if (after == costs.end()) return std::nullopt;
  const auto right = std::size_t(after - costs.begin());
  if (*after == cost) return std::isfinite(curve.outcome[right]) ? std::optional(curve.outcome[right]) : std::nullopt;
  if (right == 0) return std::nullopt;
  const double share = std::log(cost / costs[right - 1]) / std::log(costs[right] / costs[right - 1]);
  const double value = curve.outcome[right - 1] + share * (curve.outcome[right] - curve.outcome[right - 1]);
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::optional<double> cost_to_reach(const LearningCurve& curve, double target, bool higher_is_better) {
  const double sign = higher_is_better ? -1 : 1;
  for (std::size_t index = 0; index < curve.cost.size(); ++index) {
    if (!(sign * curve.outcome[index] <= sign * target)) continue;
    if (index == 0 || !std::isfinite(curve.outcome[index - 1])) return curve.cost[index];
    const double share = (target - curve.outcome[index - 1]) / (curve.outcome[index] - curve.outcome[index - 1]);
    return curve.cost[index - 1] * std::pow(curve.cost[index] / curve.cost[index - 1], share);
  }
  return std::nullopt;
}

std::optional<double> largest_common_cost(const std::vector<LearningCurve>& curves) {
  std::optional<double> common;
  for (const LearningCurve& curve : curves) {
    if (curve.empty()) return std::nullopt;
    common = std::min(common.value_or(curve.cost.back()), curve.cost.back());
  }
  return common;
}

}  // namespace lmhead
