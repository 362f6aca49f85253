#include "lmhead/study/study_statistics.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "lmhead/base/random.h"
#include "lmhead/study/correlations.h"
#include "lmhead/study/equal_cost.h"
#include "lmhead/study/observed.h"
#include "lmhead/study/results.h"
#include "lmhead/study/verdict.h"

namespace lmhead {
namespace {

Json object_of(const KeyValues& values) {
  Json object = Json::object();
  for (const auto& [path, value] : values) object[path] = value;
  return object;
}

Json statistics_json(const PairedStatistics& statistics) {
  return {{"mean_difference", number_or_null(statistics.mean_difference)},
          {"interval", interval_or_null(statistics.interval)},
          {"bootstrap_interval", interval_or_null(statistics.bootstrap_interval)},
          {"effect_size", number_or_null(statistics.effect_size)},
          {"p_value", number_or_null(statistics.p_value)},
          {"sign_flip_p", number_or_null(statistics.sign_flip_p)}};
}

/// Every number of a run's last validation, and the last that its observers said, by dotted name.
std::vector<std::pair<std::string, double>> figures_of(const Json& row) {
  std::vector<std::pair<std::string, double>> figures;
  for (const auto& [key, prefix] : {std::pair("final", "validation"), std::pair("observations", "")})
    if (row.contains(key) && row[key].is_object())
      flatten_numbers(prefix, row[key], [&](const std::string& name, const Json& value) {
        figures.emplace_back(name, value.get<double>());
      });
  return figures;
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
    Json all = {{"format", "lmhead-study-statistics"},
                {"version", 1},
                {"study", study_.name},
                {"description", study_.description},
                {"source", study_.source},
                {"limits", study_.limits},
                {"outcome", study_.outcome},
                {"unit", unit_of(study_.outcome)},
                {"higher_is_better", study_.higher_is_better},
                {"margin", number_or_null(study_.margin)},
                {"seeds", study_.seeds},
                {"against", study_.against},
                {"configuration", study_hash()}};
    all["runs"] = runs();
    all["arms"] = Json::array();
    for (std::size_t arm = 0; arm < study_.arms.size(); ++arm) all["arms"].push_back(arm_json(arm));
    all["comparisons"] = comparisons();
    all["correlations"] = study_correlations(progress_, plan_);
    all["reach"] = reach();
    return all;
  }

 private:
  /// Of what is asked, not of how it is described or where its data lies.
  std::string study_hash() const {
    Json json = study_.json;
    for (const char* key : {"description", "source", "limits", "details", "against"}) json.erase(key);
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
        const double value = number_at(*row, key);
        if (std::isfinite(value)) sum += value;
      };
      add(wall, "wall_seconds");
      add(measure, "measure_seconds");
      add(flops, "flops");
      if (row->value("dataset", Json()).is_string()) datasets.insert((*row)["dataset"].get<std::string>());
      if (row->value("version", Json()).is_string()) versions.insert((*row)["version"].get<std::string>());
      if (row->value("threads", Json()).is_number_integer())
        threads.insert((*row)["threads"].get<std::int64_t>());
    }
    return {{"known", finished + missing + std::size_t(plan_.to_come)},
            {"finished", finished},
            {"diverged", diverged},
            {"wall_seconds", wall},
            {"measure_seconds", measure},
            {"flops", flops},
            {"datasets", datasets},
            {"versions", versions},
            {"threads", threads}};
  }

  Json search_json(const ArmPlan& plan, const SearchOptions& options) const {
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

  /// Keys whose best value is not between two others.
  static Json edges_of(const ArmPlan& plan) {
    Json edges = Json::array();
    std::set<std::string> seen;
    for (auto search = plan.search.rbegin(); search != plan.search.rend(); ++search)  // the last round's count
      if (search->best && seen.insert(search->path).second && search->edge != Edge::kNone)
        edges.insert(edges.begin(), search->path);
    return edges;
  }

  Json mean_of(std::size_t arm, const char* key) const {
    std::vector<double> values;
    for (const auto& [seed, row] : rows_[arm])
      if (std::isfinite(number_at(*row, key))) values.push_back(number_at(*row, key));
    return values.empty() ? Json(nullptr) : Json(mean(values));
  }

  Json observations_of(std::size_t arm) const {
    std::map<std::string, std::vector<double>> values;
    for (const auto& [seed, row] : rows_[arm])
      for (const auto& [name, value] : figures_of(*row)) values[name].push_back(value);
    Json means = Json::object();
    for (const auto& [name, of_seeds] : values) means[name] = number_or_null(mean(of_seeds));
    return means;
  }

  Json observed_of(std::size_t arm) const {
    std::vector<const Json*> rows;
    for (const auto& [seed, row] : rows_[arm]) rows.push_back(row);
    return observed_over_training(rows);
  }

  /// The mean over seeds at the points that all finished runs share.
  Json curve_json(std::size_t arm) const {
    std::map<double, std::vector<double>> points;
    for (const auto& [seed, row] : rows_[arm]) {
      const LearningCurve curve = learning_curve(*row, Cost::kTokens);
      for (std::size_t index = 0; index < curve.cost.size(); ++index)
        points[curve.cost[index]].push_back(curve.outcome[index]);
    }
    Json json = {{"tokens", Json::array()}, {"mean", Json::array()}, {"standard_deviation", Json::array()}};
    for (const auto& [tokens, outcomes] : points) {
      if (outcomes.size() != rows_[arm].size()) continue;
      json["tokens"].push_back(tokens);
      json["mean"].push_back(number_or_null(mean(outcomes)));
      json["standard_deviation"].push_back(number_or_null(standard_deviation(outcomes)));
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
            {"missing", study_.seeds.size() - rows_[index].size()},
            {"diverged", rows_[index].size() - finite.size()},
            {"mean", finite.empty() ? Json(nullptr) : number_or_null(mean(finite))},
            {"standard_deviation",
             finite.size() < 2 ? Json(nullptr) : number_or_null(standard_deviation(finite))},
            {"interval", interval_or_null(t_interval(finite))},
            {"tokens", mean_of(index, "tokens")},
            {"flops", mean_of(index, "flops")},
            {"wall_seconds", mean_of(index, "wall_seconds")},
            {"tokens_per_second", mean_of(index, "tokens_per_second")},
            {"figures", observations_of(index)},
            {"observed", observed_of(index)},
            {"curve", curve_json(index)}};
  }

  Json compared_with_source(const Comparison& pair, const PairedStatistics& statistics) const {
    const StudyArm &arm = study_.arms[pair.arm], &baseline = study_.arms[pair.baseline];
    if (study_.source.contains("reported"))
      for (const Json& reported : study_.source["reported"]) {
        if (reported["arm"] != arm.choice || reported.value("baseline", baseline.choice) != baseline.choice)
          continue;
        const double difference = reported["difference"].get<double>();
        std::optional<Interval> ends;
        if (reported.contains("interval"))
          ends = Interval{reported["interval"][0].get<double>(), reported["interval"][1].get<double>()};
        return {{"difference", difference},
                {"interval", interval_or_null(ends)},
                {"words", compare_with_source(statistics, difference, ends)}};
      }
    const Json signs =
        study_.source.is_object() ? study_.source.value("expected_sign", Json::object()) : Json::object();
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

  /// Paired differences of the figures that the study asks for beside its outcome. They are looked at, not tested: they have
  /// intervals and take no part in Holm's correction.
  Json details_of(const Comparison& pair) const {
    struct Pairs {
      std::vector<double> baseline, arm, differences;
    };
    std::vector<std::pair<std::string, Pairs>> all;  // in the order of the rows
    for (const auto& [seed, row] : rows_[pair.baseline]) {
      const auto other = rows_[pair.arm].find(seed);
      if (other == rows_[pair.arm].end()) continue;
      const auto theirs = figures_of(*other->second);
      for (const auto& [name, value] : figures_of(*row)) {
        const auto same = std::ranges::find(theirs, name, &std::pair<std::string, double>::first);
        const auto is_asked_for = [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0; };
        if (same == theirs.end() || std::ranges::none_of(study_.details, is_asked_for)) continue;
        auto place = std::ranges::find(all, name, &std::pair<std::string, Pairs>::first);
        if (place == all.end()) place = all.insert(all.end(), {name, {}});
        place->second.baseline.push_back(value);
        place->second.arm.push_back(same->second);
        place->second.differences.push_back(same->second - value);
      }
    }
    Json list = Json::array();
    for (const auto& [name, pairs] : all) {
      const PairedStatistics statistics = paired_statistics(pairs.differences);
      list.push_back({{"figure", name},
                      {"seeds", pairs.differences.size()},
                      {"baseline_mean", number_or_null(mean(pairs.baseline))},
                      {"arm_mean", number_or_null(mean(pairs.arm))},
                      {"mean_difference", number_or_null(statistics.mean_difference)},
                      {"interval", interval_or_null(statistics.interval)}});
    }
    return list;
  }

  std::string words_of(const Compared& compared) const {
    const std::string of = " of " + std::to_string(compared.seeds.size()) + " seeds";
    if (compared.seeds.empty()) return "no pair is finished yet";
    std::string words;
    if (compared.diverged_arm > 0)
      words = "the arm diverged on " + std::to_string(compared.diverged_arm) + of;
    if (compared.diverged_baseline > 0)
      words += std::string(words.empty() ? "" : "; ") + "the baseline diverged on " +
               std::to_string(compared.diverged_baseline) + of;
    if (!words.empty()) return words;  // means over the seeds that survived would flatter
    words = decide(*compared.statistics, {study_.higher_is_better, study_.margin}).words;
    for (const std::size_t arm : {compared.pair.baseline, compared.pair.arm})
      if (!edges_of(plan_.arms[arm]).empty())
        words += std::string("; ") + (arm == compared.pair.arm ? "the arm" : "the baseline") +
                 " is tuned at an edge";
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
      Json json = {{"baseline", study_.arms[one.pair.baseline].name},
                   {"arm", study_.arms[one.pair.arm].name},
                   {"seeds", one.seeds},
                   {"diverged", {{"baseline", one.diverged_baseline}, {"arm", one.diverged_arm}}}};
      if (one.statistics) {
        if (one.statistics->p_value) one.statistics->holm_p = adjusted[next++];
        json["differences"] = one.statistics->differences;
        json.update(statistics_json(*one.statistics));
        json["holm_p"] = number_or_null(one.statistics->holm_p);
      }
      const bool whole = one.statistics && one.diverged_arm == 0 && one.diverged_baseline == 0;
      if (whole) {
        const Verdict verdict = decide(*one.statistics, {study_.higher_is_better, study_.margin});
        json["finding"] = to_string(verdict.finding);
        json["more_seeds"] = verdict.more_seeds ? Json(*verdict.more_seeds) : Json(nullptr);
        json["source"] = compared_with_source(one.pair, *one.statistics);
      }
      json["verdict"] = words_of(one);
      for (const auto& [cost, name] : kCosts)
        json[std::string("equal_") + name] =
            difference_at_equal(cost, rows_[one.pair.baseline], rows_[one.pair.arm]);
      if (!study_.details.empty()) json["details"] = details_of(one.pair);
      list.push_back(json);
    }
    return list;
  }

  /// Per place of the grid: how much cheaper than the reference each arm reaches the reference's final
  /// outcome.
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
        if (arm != *reference) {
          Json one = {{"arm", study_.arms[arm].name}, {"reference", study_.arms[*reference].name}};
          one.update(cost_ratios(rows_[arm], rows_[*reference], study_.higher_is_better));
          list.push_back(one);
        }
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

  StudyProgress& progress_;
  const Study& study_;
  StudyPlan plan_;
  std::vector<RowsBySeed> rows_;  // of each arm, confirmed
};

}  // namespace

Json study_statistics(StudyProgress& progress) { return StudyReader(progress).read(); }

}  // namespace lmhead
