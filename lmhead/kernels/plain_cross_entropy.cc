// The plain composition of linear_cross_entropy: what the fast kernels must agree with, and where derivatives come from
// that they have no formula for.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones.h>

#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/plain_logits.h"

namespace lmhead {

at::Tensor plain_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                      const LinearCrossEntropyOptions& options) {
  at::Tensor features = hidden;
  // What stands under an ignored target must not reach anything, whatever it is.
  if (targets.dim() == 1) features = hidden.masked_fill(targets.eq(options.ignore_index).unsqueeze(1), 0);
  return plain_cross_entropy(wide_linear_logits(features, map), targets, options);
}

at::Tensor plain_cross_entropy(const at::Tensor& given_logits, const at::Tensor& given_targets,
                               const LinearCrossEntropyOptions& options) {
  at::Tensor logits = given_logits, targets = given_targets;
  if (logits.scalar_type() != at::kDouble) logits = logits.to(at::kFloat);
  if (options.temperature.defined()) logits = logits / options.temperature.to(logits.scalar_type()).unsqueeze(1);
  const bool has_probabilities = targets.dim() == 2;
  if (has_probabilities) targets = targets.to(logits.scalar_type());
  at::Tensor class_weight = options.class_weight;
  if (class_weight.defined()) class_weight = class_weight.to(logits.scalar_type());
  const bool weighted = options.token_weight.defined() || options.z_loss != 0;
  const auto reduction = weighted || options.reduction == Reduction::kNone ? 0
                         : options.reduction == Reduction::kMean           ? 1
                                                                           : 2;
  at::Tensor loss = at::cross_entropy_loss(logits, targets, class_weight, reduction,
                                           has_probabilities ? -100 : options.ignore_index, options.label_smoothing);
  if (!weighted) return loss;
  const at::Tensor kept = has_probabilities ? at::ones({targets.size(0)}, targets.options().dtype(at::kBool))
                                            : targets.ne(options.ignore_index);
  if (options.z_loss != 0) loss = loss + options.z_loss * at::logsumexp(logits, 1).square() * kept;
  if (options.token_weight.defined()) loss = loss * options.token_weight;
  if (options.reduction == Reduction::kNone) return loss;
  if (options.reduction == Reduction::kSum) return loss.sum();
  if (!class_weight.defined() || has_probabilities) return loss.sum() / kept.sum();
  return loss.sum() / (class_weight.index_select(0, targets * kept) * kept).sum();
}

}  // namespace lmhead
