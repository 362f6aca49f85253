// Which words a step of the candidate head is trained on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lmhead/heads/head_input.h"

namespace lmhead {

/// `count` different ids below `vocab_size`, in no order, that depend on seed, step and micro-batch alone. Each id is
/// among them with probability count / vocab_size: at random, or in `strides` as evenly as they go from a random place.
std::vector<std::int64_t> draw_words(const StepContext& step, std::int64_t vocab_size, std::int64_t count,
                                     bool strides);

/// The words of a step and where its targets stand among them.
struct Candidates {
  at::Tensor ids;      // [U] int64, ascending: the batch's targets and the words that were drawn
  at::Tensor targets;  // [N] int64 into `ids`
  at::Tensor drawn;    // [U] bool: no target, so that it is there by chance
};
/// `batch_targets`, all of the batch's, are `targets` where undefined.
Candidates candidates_of(const at::Tensor& targets, const std::vector<std::int64_t>& drawn, std::int64_t vocab_size,
                         const at::Tensor& batch_targets = {});

}  // namespace lmhead
