#include "lmhead/study/finished_run.h"

#include "lmhead/base/error.h"
#include "lmhead/run/input_files.h"
#include "lmhead/run/run.h"
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

template <class Number>
std::optional<Number> number_at(const Json& json, const std::string& path) {
  const Json* value = find_value(json, path);
  return value && value->is_number() ? std::optional(value->get<Number>()) : std::nullopt;
}

ValidationCurve curve_of(const Study& study, const std::vector<Json>& log) {
  std::vector<Json> lines;
  for (const Json& line : log)
    if (line.contains("validation") && number_at<std::int64_t>(line, "tokens")) lines.push_back(line);
  ValidationCurve curve;
  for (const Json& line : thinned(lines)) {
    curve.step.push_back(*number_at<std::int64_t>(line, "step"));
    curve.tokens.push_back(*number_at<std::int64_t>(line, "tokens"));
    curve.wall_seconds.push_back(number_at<double>(line, "wall_seconds"));
    curve.loss.push_back(number_at<double>(line, "validation.loss"));
    if (study.outcome != kLossOutcome) curve.outcome.push_back(number_at<double>(line, study.outcome));
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

Json object_of(const KeyValues& values) {
  Json object = Json::object();
  for (const auto& [path, value] : values) object[path] = value;
  return object;
}

/// All that is there to say however the run ended.
RunRow start_row(const Study& study, const StudyRun& run, const RunIdentity& identity, const Json& summary,
                 const fs::path& run_folder) {
  RunRow row{.study = study.name, .arm = run.arm_name, .phase = to_string(run.phase), .seed = run.seed};
  row.grid = object_of(study.arms[run.arm].grid);
  row.searched = object_of(run.searched);
  row.configuration = identity.configuration;
  row.settings = identity.settings;
  const RunInputs inputs = inputs_of_run(run_folder);
  for (const InputFileKind& kind : input_file_kinds()) {
    const auto hash_in = [&](const std::map<std::string, std::string>& files) {
      const auto place = files.find(kind.name);
      return place == files.end() ? std::string() : place->second;
    };
    const std::string now = hash_in(identity.files), then = hash_in(inputs.files);
    require(then == now, "study", run_folder.string(), " must have read what ", kind.key, " holds now, \"", now,
            "\", got \"", then, '"');
  }
  row.dataset = inputs.dataset;
  require(row.dataset.has_value(), "study", run_folder.string(),
          " must hold a summary that names its dataset, got none");
  require(!identity.dataset || *identity.dataset == *row.dataset, "study", run_folder.string(),
          " must have been trained on what data.path holds now, ", identity.dataset.value_or(""),
          ", got a run on other data, ", *row.dataset);
  row.outcome_path = study.outcome;
  row.tokens = number_at<std::int64_t>(summary, "tokens");
  row.wall_seconds = number_at<double>(summary, "wall_seconds");
  row.measure_seconds = number_at<double>(summary, "measure_seconds");
  row.tokens_per_second = number_at<double>(summary, "tokens_per_second");
  if (identity.flops_per_token && row.tokens) row.flops = *identity.flops_per_token * double(*row.tokens);
  row.threads = number_at<std::int64_t>(summary, "threads");
  if (const Json* version = find_value(summary, "version"); version && version->is_string())
    row.version = version->get<std::string>();
  if (const Json* trained_by = find_value(summary, "trained_by"); trained_by && trained_by->is_array())
    for (const Json& one : *trained_by)
      row.trained_by.push_back(read_options<TrainedBy>(one, (run_folder / "summary.json").string()));
  return row;
}

Json kept_figures(const Study& study, const Json& summary, const Json& final, const std::vector<Json>& log) {
  Json keep = Json::object();
  for (const std::string& path : study.keep) {
    const Json* value = find_value(summary, path);
    if (!value && path.starts_with("validation")) value = find_value(final, path);
    keep[path] = value ? *value : kept_over_training(log, path);
  }
  return keep;
}

}  // namespace

RunRow row_of_finished_run(const Study& study, const StudyRun& run, const RunIdentity& identity,
                           const fs::path& run_folder) {
  const Json summary = read_summary(run_folder).value_or(Json::object());
  const Json* final = find_value(summary, "final");
  require(final && final->is_object(), "study", run_folder.string(),
          " must hold a summary with a final record, got none");
  const Json* outcome = find_value(*final, study.outcome);
  if (!outcome) outcome = find_value(summary, study.outcome);
  require(outcome && (outcome->is_number() || outcome->is_null()), "study",
          "outcome must be a path to a number in a run's final record, got \"", study.outcome, "\"; that record has ",
          final->dump().substr(0, 200));
  RunRow row = start_row(study, run, identity, summary, run_folder);
  row.diverged = outcome->is_null();  // JSON has no other way to say that a number was not finite
  require(!row.diverged || !number_at<double>(*final, kLossOutcome), "study",
          "outcome must be known at the end of a run, got null at \"", study.outcome, '"');
  if (!row.diverged) row.outcome = outcome->get<double>();
  if (const Json* validation = find_value(*final, "validation"); validation && validation->is_object())
    row.final = *validation;
  const std::vector<Json> log = read_log(run_folder);
  row.curve = curve_of(study, log);
  row.observations = last_observations(log);
  row.keep = kept_figures(study, summary, *final, log);
  if (Json curves = observation_curves(log); curves.dump().size() < kLargestCurves)
    row.observation_curves = std::move(curves);
  return row;
}

RunRow row_of_diverged_run(const Study& study, const StudyRun& run, const RunIdentity& identity,
                           const fs::path& run_folder, const std::string& error) {
  RunRow row = start_row(study, run, identity, read_summary(run_folder).value_or(Json::object()), run_folder);
  row.diverged = true;
  row.error = error.substr(0, 200);
  row.curve = curve_of(study, read_log(run_folder));
  return row;
}

}  // namespace lmhead
