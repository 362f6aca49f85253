// The plain composition of linear_cross_entropy: what the fast kernels must agree with.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tanh.h>

#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

at::Tensor linear_logits(const at::Tensor& hidden, const LinearMap& map) {
  at::Tensor logits = map.bias.defined() ? at::linear(hidden, map.weight, map.bias) : at::linear(hidden, map.weight);
  if (map.logit_scale != 1) logits = logits * map.logit_scale;
  if (map.logit_softcap > 0) logits = at::tanh(logits / map.logit_softcap) * map.logit_softcap;
  return logits;
}

at::Tensor plain_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                      const LinearCrossEntropyOptions& options) {
  return plain_cross_entropy(linear_logits(hidden, map), targets, options);
}

at::Tensor plain_cross_entropy(const at::Tensor& given_logits, const at::Tensor& targets,
                               const LinearCrossEntropyOptions& options) {
  at::Tensor logits = given_logits;
  if (logits.scalar_type() != at::kDouble) logits = logits.to(at::kFloat);
  at::Tensor class_weight = options.class_weight;
  if (class_weight.defined()) class_weight = class_weight.to(logits.scalar_type());
  const bool weighted = options.token_weight.defined() || options.z_loss != 0;
  const auto reduction = weighted || options.reduction == Reduction::kNone ? 0
                         : options.reduction == Reduction::kMean           ? 1
                                                                           : 2;
  at::Tensor loss =
      at::cross_entropy_loss(logits, targets, class_weight, reduction, options.ignore_index, options.label_smoothing);
  if (!weighted) return loss;
  const at::Tensor kept = targets.ne(options.ignore_index);
  if (options.z_loss != 0) loss = loss + options.z_loss * at::logsumexp(logits, 1).square() * kept;
  if (options.token_weight.defined()) loss = loss * options.token_weight;
  if (options.reduction == Reduction::kNone) return loss;
  if (options.reduction == Reduction::kSum) return loss.sum();
  if (!class_weight.defined()) return loss.sum() / kept.sum();
  return loss.sum() / (class_weight.index_select(0, targets * kept) * kept).sum();
}

}  // namespace lmhead
