#include "lmhead/heads/token_loss_head.h"

namespace lmhead {

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
