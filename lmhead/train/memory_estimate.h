// What a run will need of memory, from its configuration alone.
#pragma once

#include <cstdint>
#include <optional>

#include "lmhead/train/configuration.h"

namespace lmhead {

/// Bytes of the process that needs most, beside the program itself; where two things are not there at the same time,
/// `peak` has the larger, and on a CPU as much of the smaller as stays with the process when it is let go.
struct MemoryEstimate {
  double parameters = 0;   // numbers that are trained, of the whole model
  double values = 0;       // bytes of parameters, and of the copies that products of bfloat16 use
  double gradients = 0;    // as the backward pass leaves them, and those of earlier micro-batches
  double exchange = 0;     // what is on its way between processes
  double optimizer = 0;    // its state
  double activations = 0;  // ids, and what one micro-batch keeps for the backward pass
  double logits = 0;       // the block of logits that is there at a time, and what is made of it
  double peak = 0;

  double state() const { return values + gradients + exchange + optimizer; }
};

/// Of one of so many processes that train together; `shares_words`: as the configuration says (parallel_layout.h), or
/// as given.
MemoryEstimate estimate_memory(const TrainConfiguration& configuration, std::int64_t vocab_size,
                               std::int64_t processes = 1, std::optional<bool> shares_words = std::nullopt);

/// Throws, saying what is needed and what is there, where the estimate is more than `available_memory()`.
void require_training_memory(const TrainConfiguration& configuration, std::int64_t vocab_size,
                             std::int64_t processes = 1);

}  // namespace lmhead
