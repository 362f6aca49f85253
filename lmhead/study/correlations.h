// Whether figures that observers read early tell how runs end: rank correlations over the runs of a study.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/statistics/statistics.h"
#include "lmhead/study/conduct.h"

namespace lmhead {

/// What an observer said at a step of a finished run; nothing where it did not measure then.
std::optional<double> observed_at(const RunRow& row, const std::string& name, std::int64_t step);

enum class CorrelationFinding { kPredicts, kNoneAsLarge, kUndecided };
const char* to_string(CorrelationFinding finding);

struct CorrelationVerdict {
  CorrelationFinding finding;
  std::string words;
};

/// By the rule of docs/statistics.md, "Correlations"; `outcome` is what the words call the outcome.
CorrelationVerdict decide_correlation(double rho, const std::optional<Interval>& interval,
                                      const std::optional<double>& holm_p, const std::optional<double>& margin,
                                      const std::string& outcome);

/// statistics.json's `correlations` (docs/files.md): every predictor of every request, over all runs whose
/// rows are there, those of searches too. Takes about a tenth of a second each for the bootstrap.
Json study_correlations(StudyProgress& progress, const StudyPlan& plan);

}  // namespace lmhead
