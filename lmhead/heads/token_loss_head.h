// What heads have in common whose losses are a function of normalisers and target logits.
#pragma once

#include "lmhead/heads/lm_head.h"
#include "lmhead/kernels/linear_token_loss.h"

namespace lmhead {

/// Losses by linear_token_loss: no logits are kept, but on devices and for derivatives that it does not take.
class TokenLossHead : public LmHead {
 protected:
  using LmHead::LmHead;

  virtual TokenLossProblem token_loss_problem(const HeadInput& input, const at::Tensor& targets) const = 0;
  /// [M] for reduction none, or their mean.
  virtual at::Tensor losses(const HeadInput& input, const at::Tensor& targets, Reduction reduction) const;

  at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const override;
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics* statistics) const override;
};

}  // namespace lmhead
