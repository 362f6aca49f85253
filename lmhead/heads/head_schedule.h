// A number of a head that changes over a run.
#pragma once

#include <string>

#include "lmhead/base/options.h"
#include "lmhead/heads/head_input.h"

namespace lmhead {

/// A head has defaults of its own: `HeadSchedule weight{.start = 0.25, .end = 0}`.
struct HeadSchedule {
  double start = 0, end = 0;
  std::string shape = "linear";
  double until = 1;
  void visit_fields(FieldVisitor& visitor);

  /// The value at a step of training: `start` at the first, `end` from the step on that ends the share `until` of the
  /// run, between them along a line, half a cosine, or in `stages` four levels of equal length from `start` to `end`;
  /// `constant` stays at `start` until then. Throws outside training.
  double at(const StepContext& step) const;

  /// The share of a run's steps at which the value is not 0, by a run of a thousand.
  double share_of_run() const;
};

}  // namespace lmhead
