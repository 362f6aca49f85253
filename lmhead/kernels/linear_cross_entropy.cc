#include "lmhead/kernels/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tanh.h>

#include "lmhead/base/error.h"

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
  const bool weighted = options.token_weight.defined() || options.z_loss != 0;
  const auto reduction = weighted || options.reduction == Reduction::kNone ? 0
                         : options.reduction == Reduction::kMean           ? 1
                                                                           : 2;
  at::Tensor loss = at::cross_entropy_loss(logits, targets, options.class_weight, reduction, options.ignore_index,
                                           options.label_smoothing);
  if (!weighted) return loss;
  const at::Tensor kept = targets.ne(options.ignore_index);
  if (options.z_loss != 0) loss = loss + options.z_loss * at::logsumexp(logits, 1).square() * kept;
  if (options.token_weight.defined()) loss = loss * options.token_weight;
  if (options.reduction == Reduction::kNone) return loss;
  if (options.reduction == Reduction::kSum) return loss.sum();
  return loss.sum() / kept.sum();
}

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options) {
  return plain_linear_cross_entropy(hidden, map, targets, options);
}

TokenStatistics token_statistics(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets) {
  const at::Tensor logits = linear_logits(hidden, map);
  const at::Tensor log_p = at::log_softmax(logits, 1);
  const at::Tensor p = log_p.exp();
  at::Tensor gradient = p.scatter_add(1, targets.unsqueeze(1), at::Tensor(-p.new_ones({p.size(0), 1})));
  TokenStatistics statistics;
  statistics.log_probability = log_p.gather(1, targets.unsqueeze(1)).squeeze(1);
  statistics.logsumexp = at::logsumexp(logits, 1);
  statistics.entropy = -(p * log_p).nan_to_num().sum(1);
  statistics.correct = logits.argmax(1).eq(targets);
  gradient = gradient * map.logit_scale;
  if (map.logit_softcap > 0) gradient = gradient * (1 - (logits / map.logit_softcap).square());
  statistics.logit_gradient_square = gradient.square().sum(1);
  statistics.hidden_gradient = at::matmul(gradient, map.weight);
  return statistics;
}

}  // namespace lmhead
