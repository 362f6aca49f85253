// Everything that the rows of a study allow to say, as one JSON object: statistics.json.
#pragma once

#include "lmhead/study/conduct.h"

namespace lmhead {

/// The content of statistics.json (docs/files.md) from the rows there are; runs that are missing are counted,
/// not guessed. Computing it takes about a millisecond a comparison for the bootstrap, and what
/// `study_correlations` takes.
Json study_statistics(StudyProgress& progress);

}  // namespace lmhead
