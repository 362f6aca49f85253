#include "lmhead/study/study_statistics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "lmhead/base/random.h"
#include "lmhead/study/curves.h"
#include "lmhead/study/results.h"
#include "lmhead/study/verdict.h"

namespace lmhead {
namespace {

/// A number, or null where there is none: JSON knows neither NaN nor infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
Json number(const std::optional<double>& value) { return value ? number(*value) : Json(nullptr); }
Json interval(const std::optional<Interval>& ends) {
  return ends ? Json{number(ends->low), number(ends->high)} : Json(nullptr);
}

Json object_of(const KeyValues& values) {
  Json object = Json::object();
  for (const auto& [path, value] : values) object[path] = value;
  return object;
}

double value_of(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_number() ? found->get<double>() : std::nan("");
}

/// The confirmed runs of an arm by seed.
using Rows = std::map<std::int64_t, const Json*>;

enum class Cost { kSteps, kTokens, kFlops, kWallSeconds };
constexpr std::pair<Cost, const char*> kCosts[] = {{Cost::kSteps, "steps"},
                                                   {Cost::kTokens, "tokens"},
                                                   {Cost::kFlops, "flops"},
                                                   {Cost::kWallSeconds, "wall_seconds"}};

LearningCurve curve_of(const Json& row, Cost cost) {
  LearningCurve curve;
  const Json lists = row.value("curve", Json::object());
  const char* key = cost == Cost::kSteps ? "step" : cost == Cost::kWallSeconds ? "wall_seconds" : "tokens";
  const char* outcome = lists.contains("outcome") ? "outcome" : "loss";
  if (!lists.contains(key) || !lists.contains(outcome) || lists[key].size() != lists[outcome].size()) return curve;
  const double flops_per_token = value_of(row, "flops") / value_of(row, "tokens");
  for (std::size_t index = 0; index < lists[key].size(); ++index) {
    if (!lists[key][index].is_number()) continue;
    const double at = lists[key][index].get<double>() * (cost == Cost::kFlops ? flops_per_token : 1);
    if (!std::isfinite(at) || at <= 0 || (!curve.empty() && at <= curve.cost.back())) continue;
    curve.cost.push_back(at);
    curve.outcome.push_back(lists[outcome][index].is_number() ? lists[outcome][index].get<double>() : std::nan(""));
  }
  return curve;
}

Json statistics_json(const PairedStatistics& statistics) {
  return {{"mean_difference", number(statistics.mean_difference)},
          {"interval", interval(statistics.interval)},
          {"bootstrap_interval", interval(statistics.bootstrap_interval)},
          {"effect_size", number(statistics.effect_size)},
          {"p_value", number(statistics.p_value)},
          {"sign_flip_p", number(statistics.sign_flip_p)}};
}

class StudyReader {
 public:
  explicit StudyReader(StudyProgress& progress)
      : progress_(progress), study_(progress.study()), plan_(progress.plan()), rows_(study_.arms.size()) {
    for (std::size_t arm = 0; arm < study_.arms.size(); ++arm)
      for (const StudyRun& run : plan_.arms[arm].confirmation_runs)
        if (const Json* row = progress.row_of(run)) rows_[arm][run.seed] = row;
  }

  Json read() {
    Json all = {{"format", "lmhead-study-statistics"}, {"version", 1}, {"study", study_.name},
                {"description", study_.description}, {"source", study_.source}, {"limits", study_.limits},
                {"outcome", study_.outcome}, {"unit", unit_of(study_.outcome)},
                {"higher_is_better", study_.higher_is_better}, {"margin", number(study_.margin)},
                {"seeds", study_.seeds}, {"configuration", study_hash()}};
    all["runs"] = runs();
    all["arms"] = Json::array();
    for (std::size_t arm = 0; arm < study_.arms.size(); ++arm) all["arms"].push_back(arm_json(arm));
    all["comparisons"] = comparisons();
    all["reach"] = reach();
    return all;
  }

 private:
  /// Of what is asked, not of how it is described or where its data lies.
  std::string study_hash() const {
    Json json = study_.json;
    for (const char* key : {"description", "source", "limits"}) json.erase(key);
    if (json["base"].contains("data") && json["base"]["data"].is_object()) json["base"]["data"].erase("path");
    char text[17];
    std::snprintf(text, sizeof text, "%016llx",
                  static_cast<unsigned long long>(hash_text(nlohmann::json::parse(json.dump()).dump())));
    return text;
  }

  Json runs() {
    double wall = 0, measure = 0, flops = 0;
    std::size_t finished = 0, diverged = 0, missing = 0;
    std::set<const Json*> counted;
    std::set<std::string> datasets, versions;
    std::set<std::int64_t> threads;
    for (const StudyRun& run : plan_.runs) {
      const Json* row = progress_.row_of(run);
      missing += row == nullptr;
      if (!row || !counted.insert(row).second) continue;  // two arms may share a run
      ++finished;
      diverged += row->value("diverged", false);
      const auto add = [&](double& sum, const char* key) {
        const double value = value_of(*row, key);
        if (std::isfinite(value)) sum += value;
      };
      add(wall, "wall_seconds");
      add(measure, "measure_seconds");
      add(flops, "flops");
      if (row->value("dataset", Json()).is_string()) datasets.insert((*row)["dataset"].get<std::string>());
      if (row->value("version", Json()).is_string()) versions.insert((*row)["version"].get<std::string>());
      if (row->value("threads", Json()).is_number_integer()) threads.insert((*row)["threads"].get<std::int64_t>());
    }
    return {{"known", finished + missing + std::size_t(plan_.to_come)}, {"finished", finished}, {"diverged", diverged},
            {"wall_seconds", wall}, {"measure_seconds", measure}, {"flops", flops}, {"datasets", datasets},
            {"versions", versions}, {"threads", threads}};
  }

  Json search_json(const ArmPlan& plan, const SearchOptions& options) const {
    Json searches = Json::array();
    for (const KeySearch& search : plan.search) {
      Json candidates = Json::array();
      for (std::size_t index = 0; index < search.values.size(); ++index) {
        Json outcomes = Json::array();
        for (const double outcome : search.outcomes[index]) outcomes.push_back(number(outcome));
        candidates.push_back({{"value", search.values[index]}, {"mean", number(mean(search.outcomes[index]))}, {"outcomes", outcomes}});
      }
      searches.push_back({{"key", search.path}, {"seeds", options.seeds}, {"best", number(search.best)},
                          {"edge", to_string(search.edge)}, {"candidates", candidates}});
    }
    return searches;
  }

  /// Keys whose best value is not between two others.
  static Json edges_of(const ArmPlan& plan) {
    Json edges = Json::array();
    for (const KeySearch& search : plan.search)
      if (search.best && search.edge != Edge::kNone) edges.push_back(search.path);
    return edges;
  }

  Json mean_of(std::size_t arm, const char* key) const {
    std::vector<double> values;
    for (const auto& [seed, row] : rows_[arm])
      if (std::isfinite(value_of(*row, key))) values.push_back(value_of(*row, key));
    return values.empty() ? Json(nullptr) : Json(mean(values));
  }

  Json observations_of(std::size_t arm) const {
    std::map<std::string, std::vector<double>> values;
    for (const auto& [seed, row] : rows_[arm])
      for (const char* group : {"final", "observations"})
        if (row->contains(group) && (*row)[group].is_object())
          flatten_numbers(std::string(group) == "final" ? "validation" : "", (*row)[group],
                          [&](const std::string& name, const Json& value) { values[name].push_back(value.get<double>()); });
    Json means = Json::object();
    for (const auto& [name, of_seeds] : values) means[name] = number(mean(of_seeds));
    return means;
  }

  /// The mean over seeds at the points that all finished runs share.
  Json curve_json(std::size_t arm) const {
    std::map<double, std::vector<double>> points;
    for (const auto& [seed, row] : rows_[arm]) {
      const LearningCurve curve = lmhead::curve_of(*row, Cost::kTokens);
      for (std::size_t index = 0; index < curve.cost.size(); ++index) points[curve.cost[index]].push_back(curve.outcome[index]);
    }
    Json json = {{"tokens", Json::array()}, {"mean", Json::array()}, {"standard_deviation", Json::array()}};
    for (const auto& [tokens, outcomes] : points) {
      if (outcomes.size() != rows_[arm].size()) continue;
      json["tokens"].push_back(tokens);
      json["mean"].push_back(number(mean(outcomes)));
      json["standard_deviation"].push_back(number(standard_deviation(outcomes)));
    }
    return json;
  }

  Json arm_json(std::size_t index) const {
    const StudyArm& arm = study_.arms[index];
    const ArmPlan& plan = plan_.arms[index];
    std::vector<double> finite;
    Json seeds = Json::array(), outcomes = Json::array();
    for (const auto& [seed, row] : rows_[index]) {
      seeds.push_back(seed);
      outcomes.push_back(number(outcome_of(*row)));
      if (std::isfinite(outcome_of(*row))) finite.push_back(outcome_of(*row));
    }
    return {{"arm", arm.name}, {"choice", arm.choice}, {"grid", object_of(arm.grid)}, {"searched", object_of(plan.best)},
            {"at_an_edge", edges_of(plan)}, {"search", search_json(plan, arm.search)},
            {"search_finished", plan.searched}, {"seeds", seeds}, {"outcomes", outcomes},
            {"missing", study_.seeds.size() - rows_[index].size()}, {"diverged", rows_[index].size() - finite.size()},
            {"mean", finite.empty() ? Json(nullptr) : number(mean(finite))},
            {"standard_deviation", finite.size() < 2 ? Json(nullptr) : number(standard_deviation(finite))},
            {"interval", interval(t_interval(finite))}, {"tokens", mean_of(index, "tokens")}, {"flops", mean_of(index, "flops")},
            {"wall_seconds", mean_of(index, "wall_seconds")}, {"tokens_per_second", mean_of(index, "tokens_per_second")},
            {"figures", observations_of(index)}, {"curve", curve_json(index)}};
  }

  /// Outcomes of both arms at the largest cost that every one of their runs reaches.
  Json at_equal(const Comparison& pair, Cost cost) const {
    std::vector<LearningCurve> curves, of_baseline, of_arm;
    std::vector<std::int64_t> seeds, left_out;
    for (const auto& [seed, row] : rows_[pair.baseline]) {
      const auto other = rows_[pair.arm].find(seed);
      if (other == rows_[pair.arm].end()) continue;
      LearningCurve left = lmhead::curve_of(*row, cost), right = lmhead::curve_of(*other->second, cost);
      if (left.empty() || right.empty() || row->value("diverged", false) || other->second->value("diverged", false)) {
        left_out.push_back(seed);
        continue;
      }
      seeds.push_back(seed);
      curves.push_back(left);
      curves.push_back(right);
      of_baseline.push_back(std::move(left));
      of_arm.push_back(std::move(right));
    }
    const auto budget = largest_common_cost(curves);
    if (!budget) return {{"budget", nullptr}, {"left_out", left_out}};
    std::vector<double> differences;
    std::vector<std::int64_t> compared;
    for (std::size_t index = 0; index < seeds.size(); ++index) {
      const auto left = outcome_at(of_baseline[index], *budget), right = outcome_at(of_arm[index], *budget);
      if (!left || !right) {
        left_out.push_back(seeds[index]);
        continue;
      }
      compared.push_back(seeds[index]);
      differences.push_back(*right - *left);
    }
    Json json = {{"budget", *budget}, {"seeds", compared}, {"left_out", left_out}};
    if (!differences.empty()) {
      json["mean_difference"] = number(mean(differences));
      json["interval"] = interval(t_interval(differences));
    }
    return json;
  }

  Json compared_with_source(const Comparison& pair, const PairedStatistics& statistics) const {
    const StudyArm &arm = study_.arms[pair.arm], &baseline = study_.arms[pair.baseline];
    if (study_.source.contains("reported"))
      for (const Json& reported : study_.source["reported"]) {
        if (reported["arm"] != arm.choice || reported.value("baseline", baseline.choice) != baseline.choice) continue;
        const double difference = reported["difference"].get<double>();
        std::optional<Interval> ends;
        if (reported.contains("interval"))
          ends = Interval{reported["interval"][0].get<double>(), reported["interval"][1].get<double>()};
        return {{"difference", difference}, {"interval", interval(ends)},
                {"words", compare_with_source(statistics, difference, ends)}};
      }
    const Json signs = study_.source.is_object() ? study_.source.value("expected_sign", Json::object()) : Json::object();
    if (!signs.contains(arm.choice)) return nullptr;
    const char sign = signs[arm.choice].get<std::string>()[0];
    return {{"sign", std::string(1, sign)}, {"words", compare_with_sign(statistics, sign, study_.margin)}};
  }

  struct Compared {
    Comparison pair;
    std::vector<std::int64_t> seeds;
    std::int64_t diverged_baseline = 0, diverged_arm = 0;
    std::optional<PairedStatistics> statistics;
  };

  Compared compare(const Comparison& pair) const {
    Compared compared{pair};
    std::vector<double> differences;
    for (const auto& [seed, row] : rows_[pair.baseline]) {
      const auto other = rows_[pair.arm].find(seed);
      if (other == rows_[pair.arm].end()) continue;
      const double left = outcome_of(*row), right = outcome_of(*other->second);
      compared.seeds.push_back(seed);
      compared.diverged_baseline += !std::isfinite(left);
      compared.diverged_arm += !std::isfinite(right);
      if (std::isfinite(left) && std::isfinite(right)) differences.push_back(right - left);
    }
    if (!differences.empty()) compared.statistics = paired_statistics(differences);
    return compared;
  }

  std::string words_of(const Compared& compared) const {
    const std::string of = " of " + std::to_string(compared.seeds.size()) + " seeds";
    if (compared.seeds.empty()) return "no pair is finished yet";
    std::string words;
    if (compared.diverged_arm > 0) words = "the arm diverged on " + std::to_string(compared.diverged_arm) + of;
    if (compared.diverged_baseline > 0)
      words += std::string(words.empty() ? "" : "; ") + "the baseline diverged on " +
               std::to_string(compared.diverged_baseline) + of;
    if (!words.empty()) return words;  // means over the seeds that survived would flatter
    words = decide(*compared.statistics, {study_.higher_is_better, study_.margin}).words;
    for (const std::size_t arm : {compared.pair.baseline, compared.pair.arm})
      if (!edges_of(plan_.arms[arm]).empty())
        words += std::string("; ") + (arm == compared.pair.arm ? "the arm" : "the baseline") + " is tuned at an edge";
    return words;
  }

  Json comparisons() const {
    std::vector<Compared> all;
    std::vector<double> p_values;
    for (const Comparison& pair : study_.comparisons) all.push_back(compare(pair));
    for (const Compared& one : all)
      if (one.statistics && one.statistics->p_value) p_values.push_back(*one.statistics->p_value);
    const std::vector<double> adjusted = holm_adjusted(p_values);
    std::size_t next = 0;
    Json list = Json::array();
    for (Compared& one : all) {
      Json json = {{"baseline", study_.arms[one.pair.baseline].name}, {"arm", study_.arms[one.pair.arm].name},
                   {"seeds", one.seeds}, {"diverged", {{"baseline", one.diverged_baseline}, {"arm", one.diverged_arm}}}};
      if (one.statistics) {
        if (one.statistics->p_value) one.statistics->holm_p = adjusted[next++];
        json["differences"] = one.statistics->differences;
        json.update(statistics_json(*one.statistics));
        json["holm_p"] = number(one.statistics->holm_p);
      }
      const bool whole = one.statistics && one.diverged_arm == 0 && one.diverged_baseline == 0;
      if (whole) {
        const Verdict verdict = decide(*one.statistics, {study_.higher_is_better, study_.margin});
        json["finding"] = to_string(verdict.finding);
        json["more_seeds"] = verdict.more_seeds ? Json(*verdict.more_seeds) : Json(nullptr);
        json["source"] = compared_with_source(one.pair, *one.statistics);
      }
      json["verdict"] = words_of(one);
      for (const auto& [cost, name] : kCosts) json[std::string("equal_") + name] = at_equal(one.pair, cost);
      list.push_back(json);
    }
    return list;
  }

  /// Per place of the grid: how much cheaper than the reference each arm reaches the reference's final outcome.
  Json reach() const {
    std::vector<KeyValues> places;
    for (const StudyArm& arm : study_.arms)
      if (std::find(places.begin(), places.end(), arm.grid) == places.end()) places.push_back(arm.grid);
    Json list = Json::array();
    for (const KeyValues& place : places) {
      std::vector<std::size_t> arms;
      for (std::size_t arm = 0; arm < study_.arms.size(); ++arm)
        if (study_.arms[arm].grid == place && !rows_[arm].empty()) arms.push_back(arm);
      const auto reference = reference_of(arms);
      if (arms.size() < 2 || !reference) continue;
      for (const std::size_t arm : arms)
        if (arm != *reference) list.push_back(reach_json(arm, *reference));
    }
    return list;
  }

  std::optional<std::size_t> reference_of(const std::vector<std::size_t>& arms) const {
    std::optional<std::size_t> reference;
    double worst = -std::numeric_limits<double>::infinity();
    for (const std::size_t arm : arms) {
      if (study_.reach != "worst") {
        if (study_.arms[arm].choice == study_.reach) return arm;
        continue;
      }
      double sum = 0;
      for (const auto& [seed, row] : rows_[arm]) sum += outcome_of(*row);
      const double harm = (study_.higher_is_better ? -1 : 1) * sum / double(rows_[arm].size());
      if (std::isfinite(harm) && harm > worst) worst = harm, reference = arm;
    }
    return reference;
  }

  Json reach_json(std::size_t arm, std::size_t reference) const {
    Json json = {{"arm", study_.arms[arm].name}, {"reference", study_.arms[reference].name}};
    for (const auto& [cost, name] : kCosts) {
      if (cost == Cost::kSteps) continue;  // tokens say the same
      std::vector<double> logs;
      std::vector<std::int64_t> seeds, never;
      for (const auto& [seed, row] : rows_[reference]) {
        const auto other = rows_[arm].find(seed);
        if (other == rows_[arm].end()) continue;
        const LearningCurve slow = lmhead::curve_of(*row, cost);
        const auto reached = slow.empty() ? std::nullopt
                                          : cost_to_reach(lmhead::curve_of(*other->second, cost), slow.outcome.back(),
                                                          study_.higher_is_better);
        if (!reached) {
          never.push_back(seed);
          continue;
        }
        seeds.push_back(seed);
        logs.push_back(std::log(slow.cost.back() / *reached));
      }
      Json& part = json[name];
      part = {{"seeds", seeds}, {"never", never}, {"ratio", logs.empty() ? Json(nullptr) : number(std::exp(mean(logs)))}};
      const auto ends = t_interval(logs);
      part["interval"] = interval(ends ? std::optional(Interval{std::exp(ends->low), std::exp(ends->high)}) : std::nullopt);
    }
    return json;
  }

  StudyProgress& progress_;
  const Study& study_;
  StudyPlan plan_;
  std::vector<Rows> rows_;
};

}  // namespace

Json study_statistics(StudyProgress& progress) { return StudyReader(progress).read(); }

}  // namespace lmhead
