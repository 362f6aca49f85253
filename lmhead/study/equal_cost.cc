#include "lmhead/study/equal_cost.h"

#include <cmath>
#include <vector>

namespace lmhead {

Json number_or_null(const std::optional<double>& value) { return value ? number_or_null(*value) : Json(nullptr); }
Json interval_or_null(const std::optional<Interval>& ends) {
  return ends ? Json{number_or_null(ends->low), number_or_null(ends->high)} : Json(nullptr);
}

double number_at(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_number() ? found->get<double>() : std::nan("");
}

LearningCurve learning_curve(const Json& row, Cost cost) {
  LearningCurve curve;
  const Json lists = row.value("curve", Json::object());
  const char* key = cost == Cost::kSteps ? "step" : cost == Cost::kWallSeconds ? "wall_seconds" : "tokens";
  const char* outcome = lists.contains("outcome") ? "outcome" : "loss";
  if (!lists.contains(key) || !lists.contains(outcome) || lists[key].size() != lists[outcome].size()) return curve;
  const double unit = cost == Cost::kFlops ? number_at(row, "flops") / number_at(row, "tokens") : 1;
  for (std::size_t index = 0; index < lists[key].size(); ++index) {
    if (!lists[key][index].is_number()) continue;
    const double at = lists[key][index].get<double>() * unit;
    if (!std::isfinite(at) || at <= 0 || (!curve.empty() && at <= curve.cost.back())) continue;
    curve.cost.push_back(at);
    curve.outcome.push_back(lists[outcome][index].is_number() ? lists[outcome][index].get<double>() : std::nan(""));
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
    const bool diverged = row->value("diverged", false) || other->second->value("diverged", false);
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
