// The learning rate over a run, as a factor of its peak.
#pragma once

#include <cstdint>
#include <string>

#include "lmhead/base/options.h"

namespace lmhead {

struct ScheduleOptions {
  std::string type = "cosine";
  std::int64_t warmup_steps = 20;
  double final_fraction = 0.1;
  double decay_fraction = 0.2;
  void visit_fields(FieldVisitor& visitor);
};

/// The factor at `step` (counted from 1) of a run of `steps`: linear warm-up to 1, then the chosen shape down to
/// `final_fraction` at the last step; wsd stays at 1 and falls linearly over the last `decay_fraction` of the run (Hu
/// et al. 2024).
double schedule_factor(const ScheduleOptions& options, std::int64_t step, std::int64_t steps);

}  // namespace lmhead
