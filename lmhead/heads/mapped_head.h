// What heads have in common whose logits are one linear map of features that they make themselves.
#pragma once

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// Loss, gradients and scores by linear_cross_entropy: no logits are kept.
class MappedHead : public LmHead {
 public:
  bool is_whole() const override { return word_processes_.alone(); }

 protected:
  using LmHead::LmHead;

  /// Features [M, E] of the rows asked for, in the working type.
  virtual at::Tensor map_features(const HeadInput& input) const = 0;
  /// From these to logits, with working weights.
  virtual LinearMap working_map() const = 0;

  at::Tensor compute_logits(const HeadInput& input) const override;
  at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const override;
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics* statistics) const override;
  TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const override;

  /// The loss of features under `map`, and what is known of every token where `statistics` is given: of all words,
  /// wherever their rows are.
  at::Tensor cross_entropy(const at::Tensor& features, const LinearMap& map, const at::Tensor& targets,
                           const LossOptions& options, TokenStatistics* statistics = nullptr) const;
  /// Those that have rows each (HeadContext), set by heads that have `word_rows`.
  Processes word_processes_;

 private:
  void require_whole(const char* what) const;
};

}  // namespace lmhead
