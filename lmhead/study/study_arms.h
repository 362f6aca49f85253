// The arms of a study file: what each sets, what of it is searched, and the grid that multiplies them.
#pragma once

#include <vector>

#include "lmhead/study/study.h"

namespace lmhead {

/// The members `arms`, `search` and `grid` of a study file: its arms times the grid, at least one.
std::vector<StudyArm> read_arms(const Json& study);

}  // namespace lmhead
