#include "lmhead/study/served_row.h"

#include <algorithm>

namespace lmhead {
namespace {

bool has_kept(const RunRow& row, const Study& study) {
  return std::ranges::all_of(study.keep, [&](const std::string& path) { return row.keep.contains(path); });
}

/// A figure of the whole run, which stands in the row under its own name.
std::optional<double> figure_of_run(const RunRow& row, const std::string& path) {
  if (path == "tokens_per_second") return row.tokens_per_second;
  if (path == "wall_seconds") return row.wall_seconds;
  if (path == "measure_seconds") return row.measure_seconds;
  return final_figure(row, path);
}

/// The outcome is another figure of the same run, so the curve beside the loss is not of it.
void reread(RunRow& row, const std::string& outcome_path) {
  row.outcome_path = outcome_path;
  if (!row.diverged) row.outcome = figure_of_run(row, outcome_path);
  row.curve.outcome.clear();
  if (outcome_path != kLossOutcome) row.curve = {};
}

}  // namespace

bool holds_outcome(const RunRow& row, const std::string& outcome_path) {
  if (!row.outcome_path.empty()) return row.outcome_path == outcome_path;
  const auto& curve = row.curve.outcome;
  if (curve.empty() != (outcome_path == kLossOutcome)) return false;
  if (row.diverged) return curve.empty();
  return figure_of_run(row, outcome_path) == row.outcome && (curve.empty() || curve.back() == row.outcome);
}

std::optional<RunRow> served_row(const RunRow& row, const Study& study) {
  const bool own = row.study == study.name;
  if (!own && !has_kept(row, study)) return std::nullopt;
  RunRow served = row;
  served.outcome_path = study.outcome;
  if (holds_outcome(row, study.outcome)) return served;
  if (!row.diverged && (!own || !figure_of_run(row, study.outcome))) return std::nullopt;
  reread(served, study.outcome);
  return served;
}

}  // namespace lmhead
