// Somebody who looks at a step and says figures; the trainer knows nothing more of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "lmhead/base/options.h"
#include "lmhead/heads/lm_head.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

/// What a step shows before its update: the batch's last part, from all processes, and the head as it was used.
struct StepView {
  std::int64_t step;
  HeadInput input;     // detached
  at::Tensor targets;  // [N]
  const LmHead& head;
  /// Of these tokens, from the pass that trained on them, with the head's working weights; undefined where no observer
  /// asked, or the head has none.
  TokenStatistics statistics = {};
};

class Observer {
 public:
  virtual ~Observer() = default;
  /// The key under which the figures stand in the log.
  virtual std::string name() const = 0;
  virtual bool wants(std::int64_t step) const = 0;
  /// Whether the training pass of such a step shall keep what it knows of every token.
  virtual bool wants_statistics() const { return false; }
  /// Whether it looks at the view's tokens, and not at the model alone.
  virtual bool wants_tokens() const { return true; }
  /// Whether all processes observe together, each with the view of all tokens and its own part of the head.
  virtual bool is_of_all_processes() const { return false; }
  virtual Json observe(const StepView& view) = 0;
};

}  // namespace lmhead
