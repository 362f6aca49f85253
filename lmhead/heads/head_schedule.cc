#include "lmhead/heads/head_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "lmhead/base/error.h"

namespace lmhead {

void HeadSchedule::visit_fields(FieldVisitor& visitor) {
  visitor.field("start", start, "value at the first step");
  visitor.field("end", end, "value at the end");
  visitor.field("shape", shape, "the way from start to end; constant jumps at the end, stages has four levels",
                {"linear", "cosine", "stages", "constant"});
  visitor.field("until", until, "share of the run after which the value is end", between(0, 1));
}

double HeadSchedule::at(const StepContext& step) const {
  require(step.step >= 1 && step.steps >= step.step, "head",
          "a schedule must be asked at one of a run's steps, got step ", step.step, " of ", step.steps);
  if (until == 0) return end;
  // The first step stands at 0 and the last of the share at 1, so that both values are reached.
  const double last = std::max(1.0, std::ceil(until * double(step.steps)));
  if (double(step.step) > last || (double(step.step) == last && last > 1)) return end;
  const double done = last > 1 ? double(step.step - 1) / (last - 1) : 0;
  if (shape == "constant") return start;
  const double share = shape == "cosine"   ? (1 - std::cos(std::numbers::pi * done)) / 2
                       : shape == "stages" ? std::floor(4 * done) / 3
                                           : done;
  return start + share * (end - start);
}

double HeadSchedule::share_of_run() const {
  constexpr std::int64_t kSteps = 1000;
  std::int64_t count = 0;
  for (std::int64_t step = 1; step <= kSteps; ++step) count += at({.step = step, .steps = kSteps}) != 0 ? 1 : 0;
  return double(count) / double(kSteps);
}

}  // namespace lmhead
