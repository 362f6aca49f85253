#include "lmhead/train/loss_scaling.h"

namespace lmhead {

void LossScale::note(bool finite) {
  if (!is_on()) return;
  if (!finite) {
    factor /= 2;
    finite_steps = 0;
    ++skipped_steps;
  } else if (++finite_steps == kGrowthInterval) {
    factor *= 2;
    finite_steps = 0;
  }
}

}  // namespace lmhead
