// A study's runs in long form: one figure of one run at one step a line.
#pragma once

#include <functional>
#include <string>

#include "lmhead/study/conduct.h"

namespace lmhead {

/// Replaces results.jsonl by the lines of every run whose folder has a log: what validation and observers said at each
/// step, and the summary's figures at the last step of finished runs. A run of a search stands under its arm's name and
/// the searched values. A folder that cannot be read is left out, and `on_damage` told.
void write_long_form_results(StudyProgress& progress,
                             const std::function<void(const StudyRun& run, const std::string& error)>& on_damage);

/// The unit of a metric by its dotted name; empty for one without unit.
std::string unit_of(const std::string& metric);

}  // namespace lmhead
