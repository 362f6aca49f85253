#include "lmhead/heads/token_loss_head.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "lmhead/kernels/plain_logits.h"

namespace lmhead {

TokenLoss smoothed_loss(const LossOptions& options) {
  return [smoothing = options.label_smoothing, z_loss = options.z_loss](std::int64_t, const TokenTerms& terms,
                                                                        const TokenSlopes& by) {
    const double lse = *terms.logsumexp;
    *by.logsumexp = 1 + 2 * z_loss * lse;
    *by.target_logit = smoothing - 1;
    const double loss = lse - (1 - smoothing) * *terms.target_logit + z_loss * lse * lse;
    if (smoothing == 0) return loss;
    by.further[0] = -smoothing;
    return loss - smoothing * terms.further[0];
  };
}

at::Tensor sums_of_words(const at::Tensor& weight, const LossOptions& options, const std::vector<std::int64_t>& sizes) {
  const at::ScalarType wide = loss_type(weight.scalar_type());
  if (options.label_smoothing == 0)
    return at::zeros({std::int64_t(sizes.size()), 0}, weight.options().dtype(wide).requires_grad(false));
  std::vector<at::Tensor> sums;
  for (const at::Tensor& part : weight.split_with_sizes(sizes)) sums.push_back(part.sum(0, /*keepdim=*/false, wide));
  return at::stack(sums);
}

at::Tensor mean_logit_by_sums(const std::vector<at::Tensor>& features, const at::Tensor& sums,
                              std::int64_t vocab_size) {
  if (sums.size(1) == 0) return at::zeros({features[0].size(0), 0}, sums.options().requires_grad(false));
  at::Tensor sum;
  for (std::size_t index = 0; index < features.size(); ++index) {
    const at::Tensor part = at::mv(features[index].to(sums.scalar_type()), sums[std::int64_t(index)]);
    sum = sum.defined() ? sum + part : part;
  }
  return (sum / double(vocab_size)).unsqueeze(1);
}

at::Tensor mean_logit(const at::Tensor& hidden, const at::Tensor& weight, const LossOptions& options) {
  const std::int64_t vocab_size = weight.size(0);
  return mean_logit_by_sums({hidden}, sums_of_words(weight, options, {vocab_size}), vocab_size);
}

at::Tensor plain_smoothed_losses(const at::Tensor& logits, const at::Tensor& targets, const LossOptions& options) {
  const double smoothing = options.label_smoothing;
  const at::Tensor lse = at::logsumexp(logits, 1);
  at::Tensor losses = lse - (1 - smoothing) * logits.gather(1, targets.unsqueeze(1)).squeeze(1);
  if (smoothing != 0) losses = losses - smoothing * logits.mean(1);
  return options.z_loss == 0 ? losses : losses + options.z_loss * lse.square();
}

at::Tensor TokenLossHead::losses(const HeadInput& input, const at::Tensor& targets, Reduction reduction) const {
  const TokenLossProblem problem = token_loss_problem(input, targets);
  if (linear_token_loss_takes(problem)) return linear_token_loss(problem, reduction);
  const at::Tensor all = LmHead::compute_token_losses(input, targets);
  return reduction == Reduction::kNone ? all : all.mean();
}

at::Tensor TokenLossHead::compute_token_losses(const HeadInput& input, const at::Tensor& targets) const {
  return losses(input, targets, Reduction::kNone);
}

TrainingLoss TokenLossHead::compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions&,
                                                  TokenStatistics*) const {
  return {losses(input, targets, Reduction::kMean), {}};
}

}  // namespace lmhead
