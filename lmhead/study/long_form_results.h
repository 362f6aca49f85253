// The long-form rows of a study: one figure of one run at one step a line.
#pragma once

#include <string>

#include "lmhead/study/conduct.h"

namespace lmhead {

/// Replaces results.jsonl by the rows of every run whose folder has a log: what validation and observers said
/// at each step, and the summary's figures at the last step of finished runs. A run of a search stands under
/// its arm's name and the searched values.
void write_long_form_results(StudyProgress& progress);

/// The unit of a metric by its dotted name; empty for one without unit.
std::string unit_of(const std::string& metric);

}  // namespace lmhead
