// Somebody who looks at a step and says figures; the trainer knows nothing more of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "lmhead/base/options.h"
#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// What a step shows before its update: the batch's last part, and the head as it was used.
struct StepView {
  std::int64_t step;
  at::Tensor hidden;   // [N, D], detached
  at::Tensor targets;  // [N]
  const LmHead& head;
};

class Observer {
 public:
  virtual ~Observer() = default;
  /// The key under which the figures stand in the log.
  virtual std::string name() const = 0;
  virtual bool wants(std::int64_t step) const = 0;
  virtual Json observe(const StepView& view) = 0;
};

}  // namespace lmhead
