#include "lmhead/study/run_row.h"

#include <cmath>
#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/study/over_training.h"
#include "lmhead/train/run_folder.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLargestCurves = 6000;  // bytes of a row that what observers said over training may fill unasked
constexpr std::size_t kCurvePoints = 64;

/// Every line, or where there are too many, about evenly spaced ones with the first and the last.
std::vector<Json> thinned(const std::vector<Json>& lines) {
  if (lines.size() <= kCurvePoints) return lines;
  std::vector<Json> some;
  for (std::size_t index = 0; index < kCurvePoints; ++index)
    some.push_back(lines[index * (lines.size() - 1) / (kCurvePoints - 1)]);
  return some;
}

Json curve_of(const Study& study, const std::vector<Json>& log) {
  std::vector<Json> lines;
  for (const Json& line : log)
    if (line.contains("validation")) lines.push_back(line);
  Json curve = {
      {"step", Json::array()}, {"tokens", Json::array()}, {"wall_seconds", Json::array()}, {"loss", Json::array()}};
  const bool other = study.outcome != "validation.loss";
  if (other) curve["outcome"] = Json::array();
  for (const Json& line : thinned(lines)) {
    for (const char* key : {"step", "tokens", "wall_seconds"}) curve[key].push_back(line.value(key, Json()));
    const Json* loss = find_value(line, "validation.loss");
    curve["loss"].push_back(loss ? *loss : Json());
    if (!other) continue;
    const Json* outcome = find_value(line, study.outcome);
    curve["outcome"].push_back(outcome ? *outcome : Json());
  }
  return curve;
}

bool is_observation(const std::string& key, const Json& value) { return value.is_object() && key != "validation"; }

Json last_observations(const std::vector<Json>& log) {
  Json last = Json::object();
  for (const Json& line : log)
    for (const auto& item : line.items())
      if (is_observation(item.key(), item.value()))
        flatten_numbers(item.key(), item.value(),
                        [&](const std::string& name, const Json& value) { last[name] = value; });
  return last;
}

Json observation_curves(const std::vector<Json>& log) {
  Json curves = Json::object();
  std::vector<Json> lines;
  for (const Json& line : log)
    for (const auto& item : line.items())
      if (is_observation(item.key(), item.value())) {
        lines.push_back(line);
        break;
      }
  for (const Json& line : thinned(lines)) {
    for (const auto& item : line.items()) {
      if (!is_observation(item.key(), item.value())) continue;
      flatten_numbers(item.key(), item.value(), [&](const std::string& name, const Json& value) {
        curves[name]["step"].push_back(line["step"]);
        curves[name]["value"].push_back(value);
      });
    }
  }
  return curves;
}

Json identified_row(const Study& study, const StudyRun& run, const RunIdentity& identity) {
  Json row = {{"study", study.name}, {"arm", run.arm_name}, {"phase", to_string(run.phase)}, {"seed", run.seed}};
  row["grid"] = Json::object();
  for (const auto& [path, value] : study.arms[run.arm].grid) row["grid"][path] = value;
  row["searched"] = Json::object();
  for (const auto& [path, value] : run.searched) row["searched"][path] = value;
  row["configuration"] = identity.configuration;
  row["dataset"] = identity.dataset ? Json(*identity.dataset) : Json(nullptr);
  row["settings"] = settings_of(run.configuration);
  return row;
}

void add_cost(Json& row, const StudyRun& run, const RunIdentity& identity, const Json& summary) {
  const double tokens = summary.value("tokens", 0.0);
  row["tokens"] = summary.value("tokens", Json());
  row["wall_seconds"] = summary.value("wall_seconds", Json());
  row["measure_seconds"] = summary.value("measure_seconds", Json());
  row["tokens_per_second"] = summary.value("tokens_per_second", Json());
  row["flops"] = identity.flops_per_token ? Json(*identity.flops_per_token * tokens) : Json(nullptr);
  row["threads"] = summary.value("threads", Json());
  row["version"] = summary.value("version", Json());
}

}  // namespace

void flatten_numbers(const std::string& prefix, const Json& json,
                     const std::function<void(const std::string& name, const Json& value)>& visit) {
  for (const auto& item : json.items()) {
    const std::string name = prefix.empty() ? item.key() : prefix + "." + item.key();
    if (item.value().is_object()) flatten_numbers(name, item.value(), visit);
    if (item.value().is_number()) visit(name, item.value());
  }
}

Json make_row(const Study& study, const StudyRun& run, const RunIdentity& identity, const fs::path& run_folder) {
  const auto summary = read_summary(run_folder);
  require(summary && summary->contains("final") && (*summary)["final"].is_object(), "study", run_folder.string(),
          " must hold a summary with a final record, got none");
  const Json& final = (*summary)["final"];
  const Json* outcome = find_value(final, study.outcome);
  if (!outcome) outcome = find_value(*summary, study.outcome);
  require(outcome && (outcome->is_number() || outcome->is_null()), "study",
          "outcome must be a path to a number in a run's final record, got \"", study.outcome, "\"; that record has ",
          final.dump().substr(0, 200));
  const Json* loss = find_value(final, "validation.loss");
  const bool diverged = outcome->is_null();  // JSON has no other way to say that a number was not finite
  require(!diverged || !loss || loss->is_null(), "study", "outcome must be known at the end of a run, got null at \"",
          study.outcome, '"');

  const std::vector<Json> log = read_log(run_folder);
  Json row = identified_row(study, run, identity);
  row["outcome"] = *outcome;
  row["diverged"] = diverged;
  row["final"] = final.value("validation", Json());
  row["curve"] = curve_of(study, log);
  row["observations"] = last_observations(log);
  add_cost(row, run, identity, *summary);
  if (!study.keep.empty()) {
    row["keep"] = Json::object();
    for (const std::string& path : study.keep) {
      const Json* value = find_value(*summary, path);
      if (!value && path.starts_with("validation")) value = find_value(final, path);
      row["keep"][path] = value ? *value : kept_over_training(log, path);
    }
  }
  const Json curves = observation_curves(log);
  if (!curves.empty() && curves.dump().size() < kLargestCurves) row["observation_curves"] = curves;
  return row;
}

Json make_diverged_row(const Study& study, const StudyRun& run, const RunIdentity& identity, const fs::path& run_folder,
                       const std::string& error) {
  Json row = identified_row(study, run, identity);
  row["outcome"] = nullptr;
  row["diverged"] = true;
  row["error"] = error.substr(0, 200);
  row["curve"] = curve_of(study, read_log(run_folder));
  add_cost(row, run, identity, read_summary(run_folder).value_or(Json::object()));
  return row;
}

std::string text_at(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_string() ? found->get<std::string>() : std::string();
}

double outcome_of(const Json& row) {
  const auto found = row.find("outcome");
  return found != row.end() && found->is_number() ? found->get<double>() : std::numeric_limits<double>::infinity();
}

}  // namespace lmhead
