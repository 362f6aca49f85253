// One line a finished run: all that statistics need, so that the run's folder may go.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/train/trained_by.h"

namespace lmhead {

/// A run's validations: lists of equal length, `outcome` empty where the outcome is the loss.
struct ValidationCurve {
  std::vector<std::int64_t> step, tokens;
  std::vector<std::optional<double>> wall_seconds, loss, outcome;
  void visit_fields(FieldVisitor& visitor);
};

/// What is known of a finished run; the keys are in docs/files.md.
struct RunRow {
  std::string study, arm, phase = "confirm";
  std::int64_t seed = 0;
  Json grid, searched;                 // values by dotted key
  std::string configuration;           // RunIdentity's hash, which is that of `settings`
  std::optional<std::string> dataset;  // content hash, as the run recorded it
  Json settings;
  std::string outcome_path;       // what `outcome` is; empty in rows that are older than this key
  std::optional<double> outcome;  // nothing where the run diverged
  bool diverged = false;
  std::string error;  // why it diverged
  Json final;         // the last validation
  ValidationCurve curve;
  Json observations;  // the last that observers said: numbers by dotted name
  std::optional<std::int64_t> tokens, threads;
  std::optional<double> flops, wall_seconds, measure_seconds, tokens_per_second;
  std::optional<std::string> version;
  std::vector<TrainedBy> trained_by;  // empty in rows that are older than this key
  Json keep, observation_curves;
  void visit_fields(FieldVisitor& visitor);
};

/// Reads a row. `who`, its file and line, opens the message where it is none: where a key is not known, missing or of
/// another type, where lists of the curve differ in length, where settings are not those of the configuration's hash,
/// or where the outcome is not what the last validation has under `outcome_path`.
RunRow read_row(const Json& json, const std::string& who);

/// The outcome of a row; infinite where the run diverged.
double outcome_of(const RunRow& row);

/// Every number of a run's last validation, and the last that its observers said, by dotted name.
std::vector<std::pair<std::string, double>> last_figures(const RunRow& row);

/// The number that `final` has at an outcome's path; nothing where it has none, or the outcome is no figure of a
/// validation.
std::optional<double> final_figure(const RunRow& row, const std::string& outcome_path);

/// Calls `visit` for every number below `json`, with its dotted name.
void flatten_numbers(const std::string& prefix, const Json& json,
                     const std::function<void(const std::string& name, const Json& value)>& visit);

}  // namespace lmhead
