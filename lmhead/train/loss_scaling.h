// Loss scaling: gradients of a loss that was multiplied, so that they survive float16, and what is done of those that
// do not.
#pragma once

#include <cstdint>

namespace lmhead {

/// The factor of the loss, as torch.amp.GradScaler moves it: halved after a step whose gradient is not finite, which is
/// then no step of the optimiser, and doubled after 2,000 steps in a row whose gradients were. Part of a run's state.
struct LossScale {
  static constexpr double kFirst = 65536;
  static constexpr std::int64_t kGrowthInterval = 2000;

  double factor = 0;               // 0: the loss is not scaled
  std::int64_t finite_steps = 0;   // in a row, since the factor changed
  std::int64_t skipped_steps = 0;  // of the whole run

  bool is_on() const { return factor > 0; }
  /// Whether a gradient that is not finite may be so for the factor alone.
  bool can_fall() const { return factor > 1; }
  /// After a step.
  void note(bool finite);
};

}  // namespace lmhead
