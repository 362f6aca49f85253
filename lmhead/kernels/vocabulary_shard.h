// The two halves of a cross-entropy whose vocabulary lies in several processes: what one process's rows of the head
// know of every token, and their gradients once what all know has been put together.
//
//   lmhead::_vocabulary_shard_sums
//   lmhead::_vocabulary_shard_gradients
//
// What travels between them, and every option of the loss, is python/lmhead/vocabulary_parallel.py.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/cross_entropy_arguments.h"
#include "lmhead/kernels/linear_map.h"

namespace lmhead {

struct VocabularyShard {
  at::Tensor hidden;        // [N, D]
  LinearMap map;            // weight [U, D]: the rows that are here
  at::Tensor targets;       // int64 [N]: rows of that weight, or -1 where the target is elsewhere
  at::Tensor temperature;   // [N] or undefined
  at::Tensor class_weight;  // [U] or undefined: all 1
};

/// float64 [N, 6]: the largest logit, the logsumexp, the target's logit (0 where it is elsewhere), sum_u class_weight_u
/// z_u (0 unless `with_weighted`), and the entropy of the distribution over these rows and whether the target is the
/// first index of their largest logit (0 unless `with_scores`).
/// One product; memory: a tile of logits a thread.
at::Tensor vocabulary_shard_sums(const VocabularyShard& shard, bool with_weighted, bool with_scores);

/// The gradient of tokens' losses with respect to their logits z over these rows is
///   probability exp(z - logsumexp) - target onehot - smoothing class_weight
/// with the columns of `factors`, float64 [N, 5]: largest logit here, logsumexp over the whole vocabulary, probability,
/// target, smoothing.
struct VocabularyShardGradients {
  at::Tensor hidden;   // [N, D] float32, or float64 for float64 features: what is still to be summed over shards
  at::Tensor weight;   // [U, D] and
  at::Tensor bias;     // [U], of the type of what they belong to
  at::Tensor squares;  // [N] float64: sum over these rows of the squared gradient of their products
};
/// Three products; memory beyond the results: a tile of logits a thread.
VocabularyShardGradients vocabulary_shard_gradients(const VocabularyShard& shard, const at::Tensor& factors,
                                                    const WantedGradients& wanted, bool with_squares);

}  // namespace lmhead
