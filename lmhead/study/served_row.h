// What a row says to a study: its own rows, and those that other studies left behind.
#pragma once

#include <optional>

#include "lmhead/study/run_row.h"
#include "lmhead/study/study.h"

namespace lmhead {

/// Whether the row's outcome is the figure at `outcome_path`. Rows that are older than the key `outcome_path` show it
/// by their number: it is the one that their last validation has there, and so is the end of their curve.
bool holds_outcome(const RunRow& row, const std::string& outcome_path);

/// The row as `study` may use it, its outcome the study's; nothing where it does not say what the study asks:
///   - a row of another study must hold this very outcome, and have what `keep` names;
///   - the study's own row from before its `outcome` was another gives the figure of its last validation, where that
///     has it. Unless that is the loss there is no curve of it, and comparisons at equal cost leave the run out;
///   - a run that diverged did so by any measure.
std::optional<RunRow> served_row(const RunRow& row, const Study& study);

}  // namespace lmhead
