// The divergence of one linear head's distribution from another's, without keeping the logits of either.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

/// Of the student's distribution p from the teacher's q.
enum class Divergence {
  kForwardKl,  // KL(q || p): p covers q (Hinton et al. 2015)
  kReverseKl,  // KL(p || q): p seeks modes of q
  kJsd,        // beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p (Agarwal et al. 2024)
};

struct DistillationOptions {
  Divergence divergence = Divergence::kForwardKl;
  double beta = 0.5;        // of kJsd, between 0 and 1
  double temperature = 1;   // divides both logits, after every map; the loss is not multiplied by its square
  at::Tensor token_weight;  // [N] or undefined; multiplies losses, not the divisor of the mean
  Reduction reduction = Reduction::kMean;
};

/// The divergence of softmax of the logits that `map` gives for `hidden` [N, D] from softmax of those that `teacher`
/// gives for `teacher_hidden` [N, D'], over the same V words; 0-dim, or [N] for reduction none; float32, or float64 for
/// float64 features.
///
/// Gradients: hidden, weight, bias; the teacher must not require one. For a mean or a sum they are formed in the
/// forward pass, three products and the teacher's one, else in the backward pass, two more. Derivatives of other kinds
/// are those of the plain composition, at its cost. Memory: some rows' logits of both and their gradient, 4 Mi numbers
/// or one row each. Throws where shapes or types do not fit.
at::Tensor linear_distillation(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& teacher_hidden,
                               const LinearMap& teacher, const DistillationOptions& options = {});

/// The same by plain composition: holds the logits of both.
at::Tensor plain_linear_distillation(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& teacher_hidden,
                                     const LinearMap& teacher, const DistillationOptions& options = {});

}  // namespace lmhead
