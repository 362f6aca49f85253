// The row of a run that has ended, from its folder.
#pragma once

#include <filesystem>

#include "lmhead/study/run_identity.h"
#include "lmhead/study/run_row.h"

namespace lmhead {

/// The row of a run that is finished in `run_folder`: its figures, its validation curve, what observers said last and,
/// where that is short or the study's `keep` names it, over training. The dataset is the one that the run recorded;
/// throws where that is not `identity`'s, and where the outcome is not there.
RunRow row_of_finished_run(const Study& study, const StudyRun& run, const RunIdentity& identity,
                           const std::filesystem::path& run_folder);

/// The row of a run whose loss stopped being finite.
RunRow row_of_diverged_run(const Study& study, const StudyRun& run, const RunIdentity& identity,
                           const std::filesystem::path& run_folder, const std::string& error);

}  // namespace lmhead
