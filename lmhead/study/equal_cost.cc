#include "lmhead/study/equal_cost.h"

#include <cmath>
#include <vector>

#include "lmhead/study/statistics_json.h"

namespace lmhead {

LearningCurve learning_curve(const RunRow& row, Cost cost) {
  LearningCurve curve;
  const ValidationCurve& lists = row.curve;
  const auto& outcome = lists.outcome.empty() ? lists.loss : lists.outcome;
  const auto cost_at = [&](std::size_t index) -> std::optional<double> {
    switch (cost) {
      case Cost::kSteps:
        return double(lists.step[index]);
      case Cost::kTokens:
        return double(lists.tokens[index]);
      case Cost::kFlops:
        return row.flops && row.tokens ? std::optional(double(lists.tokens[index]) * (*row.flops / double(*row.tokens)))
                                       : std::nullopt;
      case Cost::kWallSeconds:
        return lists.wall_seconds[index];
    }
    return std::nullopt;
  };
  for (std::size_t index = 0; index < outcome.size(); ++index) {
    const std::optional<double> at = cost_at(index);
    if (!at || !std::isfinite(*at) || *at <= 0 || (!curve.empty() && *at <= curve.cost.back())) continue;
    curve.cost.push_back(*at);
    curve.outcome.push_back(outcome[index].value_or(std::nan("")));
  }
  return curve;
}

Json difference_at_equal(Cost cost, const RowsBySeed& baseline, const RowsBySeed& arm) {
  struct Pair {
    std::int64_t seed;
    LearningCurve baseline, arm;
  };
  std::vector<Pair> pairs;
  std::vector<LearningCurve> curves;
  std::vector<std::int64_t> compared, left_out;
  for (const auto& [seed, row] : baseline) {
    const auto other = arm.find(seed);
    if (other == arm.end()) continue;
    Pair pair{seed, learning_curve(*row, cost), learning_curve(*other->second, cost)};
    const bool diverged = row->diverged || other->second->diverged;
    if (pair.baseline.empty() || pair.arm.empty() || diverged) {
      left_out.push_back(seed);
      continue;
    }
    curves.push_back(pair.baseline);
    curves.push_back(pair.arm);
    pairs.push_back(std::move(pair));
  }
  const auto budget = largest_common_cost(curves);
  if (!budget) return {{"budget", nullptr}, {"left_out", left_out}};
  std::vector<double> differences;
  for (const Pair& pair : pairs) {
    const auto left = outcome_at(pair.baseline, *budget), right = outcome_at(pair.arm, *budget);
    (left && right ? compared : left_out).push_back(pair.seed);
    if (left && right) differences.push_back(*right - *left);
  }
  Json json = {{"budget", *budget}, {"seeds", compared}, {"left_out", left_out}};
  if (!differences.empty()) {
    json["mean_difference"] = number_or_null(mean(differences));
    json["interval"] = interval_or_null(t_interval(differences));
  }
  return json;
}

Json cost_ratios(const RowsBySeed& arm, const RowsBySeed& reference, bool higher_is_better) {
  Json json = Json::object();
  for (const auto& [cost, name] : kCosts) {
    if (cost == Cost::kSteps) continue;  // tokens say the same
    std::vector<double> logs;
    std::vector<std::int64_t> seeds, never;
    for (const auto& [seed, row] : reference) {
      const auto other = arm.find(seed);
      if (other == arm.end()) continue;
      const LearningCurve slow = learning_curve(*row, cost);
      std::optional<double> reached;
      if (!slow.empty())
        reached = cost_to_reach(learning_curve(*other->second, cost), slow.outcome.back(), higher_is_better);
      (reached ? seeds : never).push_back(seed);
      if (reached) logs.push_back(std::log(slow.cost.back() / *reached));
    }
    const auto ends = t_interval(logs);
    json[name] = {
        {"seeds", seeds},
        {"never", never},
        {"ratio", logs.empty() ? Json(nullptr) : number_or_null(std::exp(mean(logs)))},
        {"interval",
         interval_or_null(ends ? std::optional(Interval{std::exp(ends->low), std::exp(ends->high)}) : std::nullopt)}};
  }
  return json;
}

}  // namespace lmhead
