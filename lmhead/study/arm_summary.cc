#include "lmhead/study/arm_summary.h"

#include <cmath>
#include <map>
#include <set>

#include "lmhead/study/equal_cost.h"
#include "lmhead/study/over_training.h"
#include "lmhead/study/statistics_json.h"

namespace lmhead {
namespace {

Json object_of(const KeyValues& values) {
  Json object = Json::object();
  for (const auto& [path, value] : values) object[path] = value;
  return object;
}

Json search_json(const ArmPlan& plan, const SearchOptions& options) {
  Json searches = Json::array();
  for (const KeySearch& search : plan.search) {
    Json candidates = Json::array();
    for (std::size_t index = 0; index < search.values.size(); ++index) {
      Json outcomes = Json::array();
      for (const double outcome : search.outcomes[index]) outcomes.push_back(number_or_null(outcome));
      candidates.push_back({{"value", search.values[index]},
                            {"mean", number_or_null(mean(search.outcomes[index]))},
                            {"outcomes", outcomes}});
    }
    searches.push_back({{"key", search.path},
                        {"seeds", options.seeds},
                        {"best", number_or_null(search.best)},
                        {"edge", to_string(search.edge)},
                        {"candidates", candidates}});
  }
  return searches;
}

template <class Number>
Json mean_of(const RowsBySeed& rows, std::optional<Number> RunRow::* figure) {
  std::vector<double> values;
  for (const auto& [seed, row] : rows)
    if (row->*figure) values.push_back(double(*(row->*figure)));
  return values.empty() ? Json(nullptr) : number_or_null(mean(values));
}

Json observations_of(const RowsBySeed& rows) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [seed, row] : rows)
    for (const auto& [name, value] : last_figures(*row)) values[name].push_back(value);
  Json means = Json::object();
  for (const auto& [name, of_seeds] : values) means[name] = number_or_null(mean(of_seeds));
  return means;
}

Json observed_of(const RowsBySeed& rows) {
  std::vector<const RunRow*> list;
  for (const auto& [seed, row] : rows) list.push_back(row);
  return mean_over_training(list);
}

/// The mean over seeds at the points that all finished runs share.
Json curve_json(const RowsBySeed& rows) {
  std::map<double, std::vector<double>> points;
  for (const auto& [seed, row] : rows) {
    const LearningCurve curve = learning_curve(*row, Cost::kTokens);
    for (std::size_t index = 0; index < curve.cost.size(); ++index)
      points[curve.cost[index]].push_back(curve.outcome[index]);
  }
  Json json = {{"tokens", Json::array()}, {"mean", Json::array()}, {"standard_deviation", Json::array()}};
  for (const auto& [tokens, outcomes] : points) {
    if (outcomes.size() != rows.size()) continue;
    json["tokens"].push_back(tokens);
    json["mean"].push_back(number_or_null(mean(outcomes)));
    json["standard_deviation"].push_back(number_or_null(standard_deviation(outcomes)));
  }
  return json;
}

}  // namespace

Json edges_of(const ArmPlan& plan) {
  Json edges = Json::array();
  std::set<std::string> seen;
  for (auto search = plan.search.rbegin(); search != plan.search.rend(); ++search)  // the last round's count
    if (search->best && seen.insert(search->path).second && search->edge != Edge::kNone)
      edges.insert(edges.begin(), search->path);
  return edges;
}

Json arm_summary(const ConfirmedRows& confirmed, std::size_t index) {
  const StudyArm& arm = confirmed.study.arms[index];
  const ArmPlan& plan = confirmed.plan.arms[index];
  const RowsBySeed& rows = confirmed.rows[index];
  std::vector<double> finite;
  Json seeds = Json::array(), outcomes = Json::array();
  for (const auto& [seed, row] : rows) {
    seeds.push_back(seed);
    outcomes.push_back(number_or_null(outcome_of(*row)));
    if (std::isfinite(outcome_of(*row))) finite.push_back(outcome_of(*row));
  }
  return {{"arm", arm.name},
          {"choice", arm.choice},
          {"grid", object_of(arm.grid)},
          {"searched", object_of(plan.best)},
          {"at_an_edge", edges_of(plan)},
          {"search", search_json(plan, arm.search)},
          {"search_finished", plan.searched},
          {"seeds", seeds},
          {"outcomes", outcomes},
          {"missing", confirmed.study.seeds.size() - rows.size()},
          {"diverged", rows.size() - finite.size()},
          {"mean", finite.empty() ? Json(nullptr) : number_or_null(mean(finite))},
          {"standard_deviation", finite.size() < 2 ? Json(nullptr) : number_or_null(standard_deviation(finite))},
          {"interval", interval_or_null(t_interval(finite))},
          {"tokens", mean_of(rows, &RunRow::tokens)},
          {"flops", mean_of(rows, &RunRow::flops)},
          {"wall_seconds", mean_of(rows, &RunRow::wall_seconds)},
          {"tokens_per_second", mean_of(rows, &RunRow::tokens_per_second)},
          {"figures", observations_of(rows)},
          {"observed", observed_of(rows)},
          {"curve", curve_json(rows)}};
}

}  // namespace lmhead
