#include "lmhead/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lmhead {

void ScheduleOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("type", type, "shape after warm-up", {"cosine", "linear", "wsd", "constant"});
  visitor.field("warmup_steps", warmup_steps, "steps of linear warm-up from 0", at_least(0));
  visitor.field("final_fraction", final_fraction, "factor at the last step (not for constant)", between(0, 1));
  visitor.field("decay_fraction", decay_fraction, "share of the run over which wsd decays", between(0, 1));
}

double schedule_factor(const ScheduleOptions& options, std::int64_t step, std::int64_t steps) {
  if (step <= options.warmup_steps) return double(step) / double(options.warmup_steps);
  if (options.type == "constant") return 1;
  double start = double(options.warmup_steps);
  if (options.type == "wsd") start = std::max(start, double(steps) * (1 - options.decay_fraction));
  const double length = double(steps) - start;
  const double progress = length > 0 ? std::clamp((double(step) - start) / length, 0.0, 1.0) : 1.0;
  const double shape = options.type == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - progress;
  return options.final_fraction + (1 - options.final_fraction) * shape;
}

}  // namespace lmhead
