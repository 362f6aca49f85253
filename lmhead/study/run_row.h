// One line a finished run: all that statistics need, so that the run's folder may go.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "lmhead/study/run_identity.h"

namespace lmhead {

/// The row of a run that is finished in `run_folder`: its figures, its validation curve, what observers said
/// last and, where that is short or the study's `keep` names it, over training. Throws where the outcome is not there.
Json make_row(const Study& study, const StudyRun& run, const RunIdentity& identity,
              const std::filesystem::path& run_folder);

/// The row of a run whose loss stopped being finite.
Json make_diverged_row(const Study& study, const StudyRun& run, const RunIdentity& identity,
                       const std::filesystem::path& run_folder, const std::string& error);

/// Calls `visit` for every number below `json`, with its dotted name.
void flatten_numbers(const std::string& prefix, const Json& json,
                     const std::function<void(const std::string& name, const Json& value)>& visit);

/// The text at `key` of a row; empty where there is none.
std::string text_at(const Json& row, const char* key);

/// The outcome of a row; infinite where the run diverged.
double outcome_of(const Json& row);

}  // namespace lmhead
