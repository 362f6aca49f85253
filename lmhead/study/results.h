// The long-form rows of a study: one figure of one run at one step a line.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lmhead/study/study.h"

namespace lmhead {

/// Replaces results.jsonl by the rows of every run that has a log: what validation and observers said at each step, and the
/// summary's figures at the last step of finished runs.
void write_results(const std::string& study, const std::vector<StudyRun>& runs, const std::filesystem::path& folder);

/// The unit of a metric by its dotted name; empty for one without unit.
std::string unit_of(const std::string& metric);

}  // namespace lmhead
