#include "lmhead/kernels/plain_logits.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

namespace lmhead {

at::ScalarType loss_type(at::ScalarType hidden_type) { return hidden_type == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor wide_linear_logits(const at::Tensor& hidden, const LinearMap& map) {
  const at::ScalarType type = loss_type(hidden.scalar_type());
  const bool adds_bias = map.bias.defined();
  if (adds_bias && hidden.scalar_type() == type && map.bias.scalar_type() == type)
    return logits_of_product(at::linear(hidden, map.weight, map.bias), map.transform);
  const at::Tensor product = at::linear(hidden, map.weight).to(type);
  return logits_of_product(adds_bias ? product + map.bias.to(type) : product, map.transform);
}

at::Tensor widened(const at::Tensor& tensor) { return tensor.to(loss_type(tensor.scalar_type())); }

at::Tensor linear_logits(const at::Tensor& hidden, const LinearMap& map) {
  return wide_linear_logits(hidden, map).to(hidden.scalar_type());
}

at::Tensor logits_of_product(const at::Tensor& product, const LogitTransform& transform) {
  const SigmoidCap& cap = transform.sigmoid_cap;
  const at::Tensor logits = transform.scale == 1 ? product : product * transform.scale;
  if (transform.softcap > 0) return at::tanh(logits / transform.softcap) * transform.softcap;
  if (cap.height > 0) return at::sigmoid((logits + cap.shift) / cap.width) * cap.height;
  return transform.sigsoftmax ? logits + at::log_sigmoid(logits) : logits;
}

at::Tensor product_gradient(const at::Tensor& gradient, const at::Tensor& logits, const LogitTransform& transform) {
  const SigmoidCap& cap = transform.sigmoid_cap;
  at::Tensor result = gradient;
  if (transform.softcap > 0) {
    result = result * (1 - (logits / transform.softcap).square());
  } else if (cap.height > 0) {
    const at::Tensor share = logits / cap.height;
    result = result * (share * (1 - share) * (cap.height / cap.width));
  } else if (transform.sigsoftmax) {
    // With t = e^z: e^logit = t^2 / (1 + t), and so sigma(z) = 2 / (1 + sqrt(1 + 4 e^-logit)).
    result = result * (2 - 2 / (1 + (1 + 4 * (-logits).exp()).sqrt()));
  }
  return transform.scale == 1 ? result : result * transform.scale;
}

at::Tensor plain_logit_gradient(const at::Tensor& logits, const LogitTransform& transform,
                                const LogitGradientTerms& terms) {
  const bool cools = terms.temperature.defined();
  at::Tensor gradient = ((cools ? logits / terms.temperature : logits) - terms.shift).exp_();
  // Not in place: the exponentials are what their own derivative is made of. What follows may be.
  if (terms.factor.defined()) gradient = gradient * terms.factor;
  if (terms.smoothing.defined())
    gradient.sub_(terms.class_weight.defined() ? terms.class_weight * terms.smoothing : terms.smoothing);
  if (terms.targets.defined())
    gradient.scatter_add_(1, terms.targets.unsqueeze(1), at::Tensor(-terms.target.to(gradient.scalar_type())));
  return product_gradient(cools ? gradient / terms.temperature : gradient, logits, transform);
}

}  // namespace lmhead
