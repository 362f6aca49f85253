// The statistics of a study as a person reads them in a terminal.
#pragma once

#include <string>

#include "lmhead/base/options.h"

namespace lmhead {

/// Arms, comparisons, correlations and verdicts out of the content of statistics.json, at most 100 columns where
/// names are short enough.
std::string study_table(const Json& statistics);

}  // namespace lmhead
