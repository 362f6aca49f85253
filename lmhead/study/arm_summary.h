// What statistics.json says of one arm.
#pragma once

#include "lmhead/study/confirmed_rows.h"

namespace lmhead {

/// The arm's search, seeds, outcomes, costs, figures and curve (docs/files.md).
Json arm_summary(const ConfirmedRows& confirmed, std::size_t arm);

/// Keys whose best value is not between two others.
Json edges_of(const ArmPlan& plan);

}  // namespace lmhead
