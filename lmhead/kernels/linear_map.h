// The map from features to logits that every linear-like head reduces to.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// logits = softcap(logit_scale * (hidden weight^T + bias)), softcap(z) = c tanh(z / c) for c = `logit_softcap` > 0.
struct LinearMap {
  at::Tensor weight;         // [V, D]
  at::Tensor bias;           // [V] or undefined
  double logit_scale = 1;    // muP: base width / width
  double logit_softcap = 0;  // 0: none
};

}  // namespace lmhead
