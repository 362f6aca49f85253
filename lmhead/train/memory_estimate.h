// What a run will need of memory at the least, from its configuration alone.
#pragma once

#include <cstdint>

#include "lmhead/train/configuration.h"

namespace lmhead {

/// A lower bound: what is surely held at the same time. Logits and what the operations need for themselves are left
/// out.
struct MemoryEstimate {
  double parameters = 0;   // numbers that are trained, of the whole model
  double state = 0;        // bytes of parameters, their gradients and, for AdamW, its two averages
  double activations = 0;  // bytes of ids and of what one micro-batch keeps for the backward pass
};

/// Of one of so many processes that train together.
MemoryEstimate estimate_memory(const TrainConfiguration& configuration, std::int64_t vocab_size,
                               std::int64_t processes = 1);

/// Throws, saying what is needed and what is there, where the estimate is more than `available_memory()`.
void require_training_memory(const TrainConfiguration& configuration, std::int64_t vocab_size,
                             std::int64_t processes = 1);

}  // namespace lmhead
