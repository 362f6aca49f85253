// What heads have in common whose losses are a function of normalisers and target logits.
#pragma once

#include <vector>

#include "lmhead/heads/lm_head.h"
#include "lmhead/kernels/linear_token_loss.h"

namespace lmhead {

/// The loss of a token under one softmax, with z-loss and label smoothing: lse - (1 - s) z_y - s mean z + z_loss lse^2,
/// where the mean of logits is the first further number if s is not 0.
TokenLoss smoothed_loss(const LossOptions& options);
/// That further number [N, 1], or [N, 0] where s is 0, of `hidden` [N, D]. In float32, or float64 for float64 features.
at::Tensor mean_logit(const at::Tensor& hidden, const at::Tensor& weight, const LossOptions& options);
/// The same in two steps, where the next sizes[c] of the rows of `weight` [V, D] see the c-th of C features [N, D]: the
/// sums of these rows [C, D], or [C, 0] where s is 0; and what features give with them.
at::Tensor sums_of_words(const at::Tensor& weight, const LossOptions& options, const std::vector<std::int64_t>& sizes);
at::Tensor mean_logit_by_sums(const std::vector<at::Tensor>& features, const at::Tensor& sums, std::int64_t vocab_size);
/// The same [N] of logits [N, V].
at::Tensor plain_smoothed_losses(const at::Tensor& logits, const at::Tensor& targets, const LossOptions& options);

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
