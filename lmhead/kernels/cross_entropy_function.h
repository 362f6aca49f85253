// What makes linear cross-entropy differentiable, once.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/cross_entropy_operations.h"

namespace lmhead {

struct DifferentiableCrossEntropy {
  /// As in CrossEntropyForwardResults; only the loss is differentiable.
  at::Tensor loss, filter, scores, token_gradients;
};

/// The loss with its gradients: formed now for an upstream of one where `fast`, which a mean or a sum allows, else
/// recomputed in the backward pass. Where nothing asks for gradients, none are formed and nothing is filtered.
DifferentiableCrossEntropy differentiable_cross_entropy(const CrossEntropyTensors& tensors,
                                                        const CrossEntropySettings& settings, bool fast,
                                                        double filter_threshold, bool statistics);

}  // namespace lmhead
