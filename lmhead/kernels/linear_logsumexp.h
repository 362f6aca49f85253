// Log-sum-exp and entropy of a linear map's logits, and single logits, without keeping the logits.
//
// With them whatever needs only a normaliser and some words can be written: a cross-entropy is linear_logsumexp less
// the target's logit; a vocabulary in blocks has the logsumexp of its blocks' logsumexps; a mixture -logsumexp_k (log
// pi_k + log p_k(y)).
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/linear_map.h"

namespace lmhead {

/// log sum_u exp(z_u) for every row of `hidden` [M, D], where z are the logits that `map` gives over the U rows of its
/// weight [U, D], any number of rows of any matrix, divided by the row's `temperature` where that [M] is defined: [M],
/// float32, or float64 for float64 features.
///
/// One product forwards, three backwards: logits are computed again. Gradients: hidden, weight, bias and temperature;
/// forward mode, transforms of torch.func and second derivatives are those of the plain composition, at its cost.
/// float32, float64 and bfloat16 on the CPU are tiled, everything else takes chunks of rows through ATen. Memory: 24 M
/// bytes and, a thread, 512 x 1,024 logits and 512 x D numbers; no M x U numbers. The same thread count gives the same
/// bits. Throws where shapes or types do not fit.
at::Tensor linear_logsumexp(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& temperature = {});

/// The same with the entropy -sum_u p_u log p_u of p = softmax(z), [M] nats, differentiable too, but for the
/// temperature, which must not require a gradient.
struct LogsumexpAndEntropy {
  at::Tensor logsumexp, entropy;
};
LogsumexpAndEntropy linear_logsumexp_and_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                 const at::Tensor& temperature = {});

/// Both by plain composition: holds the logits [M, U].
LogsumexpAndEntropy plain_logsumexp_and_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                const at::Tensor& temperature = {});

/// The logits of `targets`, int64 [N] or [N, K], for `hidden` [N, D], as linear_logsumexp would see them, divided by
/// the temperature [N]: of the shape of `targets`, float32, or float64 for float64 features. Differentiable in every
/// way and any number of times. Cost: D a target; memory: as many numbers. Throws for targets that no row stands for.
at::Tensor target_logits(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                         const at::Tensor& temperature = {});

}  // namespace lmhead
