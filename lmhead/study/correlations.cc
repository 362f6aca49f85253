#include "lmhead/study/correlations.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "lmhead/statistics/curves.h"
#include "lmhead/statistics/rank_correlation.h"
#include "lmhead/study/equal_cost.h"
#include "lmhead/study/over_training.h"
#include "lmhead/study/statistics_json.h"

namespace lmhead {
namespace {

constexpr double kLevel = 0.05;
constexpr std::size_t kFewestSettings = 4;

/// The number at `step` of lists `step` and `value`; `below` is its place in a value that is an object.
std::optional<double> value_at_step(const Json& curve, const std::string& below, std::int64_t step) {
  if (!is_over_training(curve)) return std::nullopt;
  const Json &steps = curve["step"], &values = curve["value"];
  for (std::size_t index = 0; index < steps.size(); ++index) {
    if (steps[index] != step) continue;
    const Json* value = below.empty() ? &values[index] : find_value(values[index], below);
    if (value && value->is_number()) return value->get<double>();
  }
  return std::nullopt;
}

/// A finished run, and what it has in common with those that differ from it in their seed alone.
struct ObservedRun {
  const StudyRun* run;
  const RunRow* row;
  std::string setting;
};

std::vector<ObservedRun> observed_runs(StudyProgress& progress, const StudyPlan& plan) {
  std::vector<ObservedRun> runs;
  std::set<const RunRow*> counted;
  for (const StudyRun& run : plan.runs) {
    const RunRow* row = progress.row_of(run);
    if (!row || !counted.insert(row).second) continue;  // two arms may share a run
    Json setting = run.configuration;
    setting["training"].erase("seed");
    runs.push_back({&run, row, setting.dump()});
  }
  return runs;
}

std::optional<double> outcome_for(const CorrelationRequest& request, const Study& study, const RunRow& row) {
  const double end = outcome_of(row);
  if (!request.of_progress) return end;
  const auto start = outcome_at(learning_curve(row, Cost::kSteps), double(request.at_step));
  if (!start) return std::nullopt;
  return study.higher_is_better ? end - *start : *start - end;
}

/// Settings, averaged over their seeds: runs of one setting are no independent witnesses.
struct Settings {
  std::vector<double> predictor, outcome;
  HeldFixed held;
  std::size_t runs = 0, left_out = 0;
};

Settings settings_for(const CorrelationRequest& request, const std::string& predictor, const Study& study,
                      const std::vector<ObservedRun>& runs) {
  struct Sums {
    double predictor = 0, outcome = 0, runs = 0;
    const Json* configuration;
  };
  std::map<std::string, Sums> settings;
  Settings all;
  for (const ObservedRun& one : runs) {
    const auto x = observed_at(*one.row, predictor, request.at_step);
    const auto y = outcome_for(request, study, *one.row);
    if (!x || !y || std::isnan(*y)) {
      ++all.left_out;
      continue;
    }
    ++all.runs;
    Sums& sums = settings[one.setting];
    sums.predictor += *x, sums.outcome += *y, sums.runs += 1, sums.configuration = &one.run->configuration;
  }
  all.held.given.resize(request.given.size());
  all.held.within.resize(request.within.size());
  std::vector<std::map<std::string, std::size_t>> categories(request.within.size());
  for (const auto& [key, sums] : settings) {
    all.predictor.push_back(sums.predictor / sums.runs);
    all.outcome.push_back(sums.outcome / sums.runs);
    for (std::size_t index = 0; index < request.given.size(); ++index)
      all.held.given[index].push_back(find_value(*sums.configuration, request.given[index])->get<double>());
    for (std::size_t index = 0; index < request.within.size(); ++index) {
      const Json* value = find_value(*sums.configuration, request.within[index]);
      auto& known = categories[index];
      all.held.within[index].push_back(known.emplace(value ? value->dump() : "", known.size()).first->second);
    }
  }
  return all;
}

std::string figures(const char* pattern, double first, double second = 0, double third = 0) {
  char text[80];
  std::snprintf(text, sizeof text, pattern, first, second, third);
  return text;
}

}  // namespace

std::optional<double> observed_at(const RunRow& row, const std::string& name, std::int64_t step) {
  for (const Json* group : {&row.keep, &row.observation_curves}) {
    for (const auto& item : group->items()) {
      const bool is_it = item.key() == name;
      if (!is_it && !name.starts_with(item.key() + ".")) continue;
      const std::string below = is_it ? "" : name.substr(item.key().size() + 1);
      if (const auto value = value_at_step(item.value(), below, step)) return value;
    }
  }
  return std::nullopt;
}

const char* to_string(CorrelationFinding finding) {
  switch (finding) {
    case CorrelationFinding::kPredicts:
      return "predicts";
    case CorrelationFinding::kNoneAsLarge:
      return "none_as_large";
    case CorrelationFinding::kUndecided:
      return "undecided";
  }
  return "";
}

CorrelationVerdict decide_correlation(double rho, const std::optional<Interval>& interval,
                                      const std::optional<double>& holm_p, const std::optional<double>& margin,
                                      const std::string& outcome) {
  if (std::isnan(rho) || !interval || !holm_p)
    return {CorrelationFinding::kUndecided, "undecided: too few settings differ in what is not held fixed"};
  const auto [low, high] = *interval;
  if ((low > 0 || high < 0) && *holm_p < kLevel)
    return {CorrelationFinding::kPredicts, std::string("predicts: the larger it is, the ") +
                                               (rho > 0 ? "higher" : "lower") + " the " + outcome +
                                               figures(", %+.2f [%.2f, %.2f]", rho, low, high)};
  if (margin && low > -*margin && high < *margin)
    return {CorrelationFinding::kNoneAsLarge,
            "no correlation stronger than " + figures("%.2f", std::max(-low, high)) + " shown"};
  return {CorrelationFinding::kUndecided, "undecided: " + figures("anything from %.2f to %.2f is possible", low, high)};
}

Json study_correlations(StudyProgress& progress, const StudyPlan& plan) {
  const Study& study = progress.study();
  if (study.correlations.empty()) return Json::array();
  const std::vector<ObservedRun> runs = observed_runs(progress, plan);
  struct Correlated {
    const CorrelationRequest* request;
    Json json;
    PartialCorrelation partial;
    std::optional<Interval> interval;
    std::optional<double> p_value;
  };
  std::vector<Correlated> all;
  std::vector<double> p_values;
  for (const CorrelationRequest& request : study.correlations)
    for (const std::string& predictor : request.predictors) {
      const Settings settings = settings_for(request, predictor, study, runs);
      const auto &x = settings.predictor, &y = settings.outcome;
      Correlated one{&request, {}, partial_spearman(x, y, settings.held), {}, {}};
      const bool is_enough = x.size() >= kFewestSettings && one.partial.degrees_of_freedom >= 1;
      if (is_enough && !std::isnan(one.partial.rho)) {
        one.interval = partial_spearman_interval(x, y, settings.held);
        one.p_value = correlation_test(one.partial);
      } else {
        one.partial.rho = std::nan("");
      }
      if (one.p_value) p_values.push_back(*one.p_value);
      const double rho = spearman_correlation(x, y);
      one.json = {{"predictor", predictor},
                  {"at_step", request.at_step},
                  {"outcome", request.of_progress ? "progress" : "final"},
                  {"given", request.given},
                  {"within", request.within},
                  {"margin", number_or_null(request.margin)},
                  {"runs", settings.runs},
                  {"left_out", settings.left_out},
                  {"settings", x.size()},
                  {"rho", number_or_null(rho)},
                  {"interval", interval_or_null(std::isnan(rho) ? std::nullopt : spearman_interval(x, y))},
                  {"partial_rho", number_or_null(one.partial.rho)},
                  {"partial_interval", interval_or_null(one.interval)},
                  {"degrees_of_freedom", one.partial.degrees_of_freedom},
                  {"p_value", number_or_null(one.p_value)}};
      all.push_back(std::move(one));
    }
  const std::vector<double> adjusted = holm_adjusted(p_values);
  std::size_t next = 0;
  Json list = Json::array();
  for (Correlated& one : all) {
    const std::optional<double> holm_p = one.p_value ? std::optional(adjusted[next++]) : std::nullopt;
    const std::string outcome = one.request->of_progress ? "progress of " + study.outcome : "final " + study.outcome;
    const CorrelationVerdict verdict =
        decide_correlation(one.partial.rho, one.interval, holm_p, one.request->margin, outcome);
    one.json["holm_p"] = number_or_null(holm_p);
    one.json["finding"] = to_string(verdict.finding);
    one.json["verdict"] = verdict.words;
    list.push_back(std::move(one.json));
  }
  return list;
}

}  // namespace lmhead
