// The rows of a study's confirmed runs, by arm and seed.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lmhead/study/conduct.h"
#include "lmhead/study/equal_cost.h"

namespace lmhead {

struct StudyRows {
  const Study& study;
  StudyPlan plan;
  std::vector<RowsBySeed> rows;  // of each arm
};

/// Every number of a run's last validation, and the last that its observers said, by dotted name.
std::vector<std::pair<std::string, double>> figures_of(const Json& row);

}  // namespace lmhead
