// What makes linear cross-entropy differentiable, once.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/cross_entropy_arguments.h"

namespace lmhead {

struct DifferentiableCrossEntropy {
  /// As in CrossEntropyForwardResults; only the loss is differentiable in reverse mode.
  at::Tensor loss, filter, scores, token_gradients;
};

/// The loss with its gradients: formed now for an upstream of one where `fast`, which a mean or a sum allows, else
/// recomputed in the backward pass. Whatever else is to be differentiated is the plain composition, in which nothing is
/// filtered.
DifferentiableCrossEntropy differentiable_cross_entropy(const CrossEntropyArguments& arguments, bool fast,
                                                        double filter_threshold, bool statistics);

/// `gradient`, which was formed for an upstream of one, times `upstream`, 0-dim; in place where nobody can see it a
/// second time.
at::Tensor scaled_gradient(const at::Tensor& gradient, const at::Tensor& upstream);

}  // namespace lmhead
