// Cross-entropy of a linear map of which every process has the rows of its words alone: no process has logits, nor the
// rows of another.
//
// What lmhead.vocabulary_parallel_cross_entropy is to PyTorch programs (python/lmhead/vocabulary_parallel.py), for the
// trainer: each process has tokens of its own, and what is known of them meets in sums, so that memory does not grow
// with the number of processes.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/heads/lm_head.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/linear_map.h"
#include "lmhead/processes/all_tokens.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

/// The words of a process: those of its share of the ids.
struct SharedWords {
  LinearMap map;  // of these words' rows
  std::int64_t vocab_size = 0;
  Processes processes;
};

/// The mean loss of this process's tokens, `hidden` [N, D] with `targets` [N] (ids of all words, none ignored), 0-dim;
/// N may differ between processes. All call it, and all call backward: the gradient of `hidden` is that of its loss,
/// those of the rows are of the sum of all processes' losses, each times its upstream factor. First derivatives alone.
///
/// Sent, of M tokens in all: M D features and M D float32 gradients, M ids, 2 or 3 M float64. Products: one
/// forward, three backward, each M x (V / P) x D. Memory: M D features and float32 gradients, 14 M float64, and a tile
/// of logits a thread.
at::Tensor shared_words_cross_entropy(const at::Tensor& hidden, const SharedWords& words, const at::Tensor& targets,
                                      const LossOptions& options);

/// What is known of tokens under plain cross-entropy, without gradients; `hidden_gradient` and `logit_gradient_square`
/// only `with_gradient`. All processes call it, each with its own tokens, or all with the same.
TokenStatistics shared_words_statistics(const at::Tensor& hidden, const SharedWords& words, const at::Tensor& targets,
                                        TokensOf tokens, bool with_gradient);

}  // namespace lmhead
