// Logits and their gradient by plain composition of ATen operations: what the vector kernels must agree with, for every
// device and type.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/linear_map.h"

namespace lmhead {

/// The type in which logits and losses are computed and losses returned: float64 for float64 features, else float32.
at::ScalarType loss_type(at::ScalarType hidden_type);
/// `tensor` in that type.
at::Tensor widened(const at::Tensor& tensor);

/// The logits [N, V] of `hidden` [N, D] in the type of `hidden`. Bias, scale and map of float16 and bfloat16 products
/// are computed in float32.
at::Tensor linear_logits(const at::Tensor& hidden, const LinearMap& map);
/// The same before they are rounded to float16 or bfloat16: in float32, or float64 for float64.
at::Tensor wide_linear_logits(const at::Tensor& hidden, const LinearMap& map);

/// What the transform makes of products hidden weight^T + bias, in their type.
at::Tensor logits_of_product(const at::Tensor& product, const LogitTransform& transform);
/// `gradient`, of a loss with respect to `logits`, turned into that with respect to the products.
at::Tensor product_gradient(const at::Tensor& gradient, const at::Tensor& logits, const LogitTransform& transform);

/// The gradient of rows of losses with respect to their logits is
///   factor * exp(z - shift) - smoothing * class_weight - target * onehot(y),   z = logits / temperature.
/// Plain cross-entropy has shift = lse(z), no factor and target 1.
struct LogitGradientTerms {
  at::Tensor shift;         // [n, 1]
  at::Tensor factor;        // [n, 1], or undefined: 1
  at::Tensor targets;       // [n] columns; undefined: there are none
  at::Tensor target;        // [n, 1]
  at::Tensor smoothing;     // [n, 1], or undefined: 0
  at::Tensor class_weight;  // [V] or [n, V], or undefined: 1
  at::Tensor temperature;   // [n, 1], or undefined: 1
};
/// That gradient, times the slope of the transform: with respect to the products. `logits` [n, V]. Differentiable in
/// everything where a factor is given.
at::Tensor plain_logit_gradient(const at::Tensor& logits, const LogitTransform& transform,
                                const LogitGradientTerms& terms);

}  // namespace lmhead
