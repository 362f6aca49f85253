// The map from features to logits that every linear-like head reduces to.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/logit_transform.h"

namespace lmhead {

/// logits = transform(hidden weight^T + bias).
struct LinearMap {
  at::Tensor weight;              // [V, D]
  at::Tensor bias;                // [V] or undefined
  LogitTransform transform = {};  // its first two numbers are muP's scale and the soft-cap
};

}  // namespace lmhead
