// Cross-entropy of a linear map's logits, without keeping the logits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "lmhead/kernels/linear_map.h"

namespace lmhead {

enum class Reduction { kNone, kMean, kSum };

struct LinearCrossEntropyOptions {
  Reduction reduction = Reduction::kMean;
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  double z_loss = 0;        // adds z_loss * logsumexp^2 to every token's loss
  at::Tensor class_weight;  // [V] or undefined
  at::Tensor token_weight;  // [N] or undefined
};

/// Loss of `targets` [N] under the logits that `map` gives for `hidden` [N, D]; 0-dim, or [N] for reduction none.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options = {});

/// The same by plain composition of ATen operations: materialises the logits; the oracle of the tests.
at::Tensor plain_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                      const LinearCrossEntropyOptions& options = {});

/// Loss of `targets` [N] under given `logits` [N, V], by plain composition.
at::Tensor plain_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                               const LinearCrossEntropyOptions& options = {});

/// The logits themselves, [N, V], by plain composition.
at::Tensor linear_logits(const at::Tensor& hidden, const LinearMap& map);

/// What diagnostics need of every token, from one streaming pass; nothing of size N x V exists beyond a tile.
struct TokenStatistics {
  at::Tensor log_probability;          // [N] float32 (float64 for float64 input): log p of the target
  at::Tensor logsumexp;                // [N]
  at::Tensor entropy;                  // [N] nats
  at::Tensor correct;                  // [N] bool: the target has the largest logit
  at::Tensor logit_gradient_square;    // [N] || p - y ||^2 at the output of the linear map's product
  at::Tensor hidden_gradient;          // [N, D] W^T (p - y), before any division by N
};
TokenStatistics token_statistics(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets);

}  // namespace lmhead
