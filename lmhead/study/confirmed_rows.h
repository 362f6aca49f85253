// The rows of a study's confirmed runs, by arm and seed.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "lmhead/study/conduct.h"

namespace lmhead {

/// The confirmed runs of an arm.
using RowsBySeed = std::map<std::int64_t, const RunRow*>;

struct ConfirmedRows {
  const Study& study;
  StudyPlan plan;
  std::vector<RowsBySeed> rows;  // of each arm
};

/// Plans the study anew and takes the rows of its confirmed runs that are there.
ConfirmedRows confirmed_rows(StudyProgress& progress);

}  // namespace lmhead
