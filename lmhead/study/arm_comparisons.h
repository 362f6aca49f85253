// What statistics.json says of pairs of arms.
#pragma once

#include "lmhead/study/confirmed_rows.h"

namespace lmhead {

/// Every comparison that the study asks for, in its order: paired differences, Holm's correction over all of them,
/// verdicts, the source's figures, equal cost and details (docs/files.md).
Json arm_comparisons(const ConfirmedRows& confirmed);

}  // namespace lmhead
