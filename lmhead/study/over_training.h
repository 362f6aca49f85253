// What observers said over training: of one run for its row, and of an arm's runs together.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/study/run_row.h"

namespace lmhead {

/// The values at `path` in the lines of a run's log, `{"step": [...], "value": [...]}`; null where no line has it.
Json kept_over_training(const std::vector<Json>& log, const std::string& path);

/// Whether what a row keeps is one of these, its two lists equally long: it may be a single figure of the summary too.
bool is_over_training(const Json& kept);

/// For every path that `kept_over_training` gave the rows' `keep`, over the steps that all rows have: `{"step": [...],
/// "mean": [...], "low": [...], "high": [...]}`, 95 % t intervals over the rows (null for one row). A value may be a
/// number or any nesting of lists and objects of numbers, which mean, low and high then repeat; what is no number
/// becomes null.
Json mean_over_training(const std::vector<const RunRow*>& rows);

}  // namespace lmhead
