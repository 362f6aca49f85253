// What a run costs in arithmetic, from its configuration alone.
#pragma once

#include <cstdint>

#include "lmhead/run/run.h"

namespace lmhead {

/// Floating-point operations of training on one token: 6 for every number of a matrix that features are multiplied by
/// (2 forward, 4 backward), what the head says of itself (a tied head multiplies too), 12 * layers * sequence_length *
/// width of attention (Chowdhery et al. 2022, PaLM, appendix B; the causal half is not taken off), and what rules on
/// the head's gradients add (head_gradient_flops). Norms, embeddings, the softmax and the optimiser are left out. No
/// parameter is made.
double training_flops_per_token(const TrainConfiguration& configuration, std::int64_t vocab_size);

/// Tokens of a step.
double training_tokens_per_step(const TrainConfiguration& configuration);
/// Tokens of all steps.
double training_tokens(const TrainConfiguration& configuration);

}  // namespace lmhead
