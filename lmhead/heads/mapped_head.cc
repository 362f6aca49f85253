#include "lmhead/heads/mapped_head.h"

#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

at::Tensor MappedHead::compute_logits(const HeadInput& input) const {
  return linear_logits(map_features(input), working_map());
}

at::Tensor MappedHead::compute_token_losses(const HeadInput& input, const at::Tensor& targets) const {
  return linear_cross_entropy(map_features(input), working_map(), targets, {.reduction = Reduction::kNone});
}

TrainingLoss MappedHead::compute_training_loss(const HeadInput& input, const at::Tensor& targets,
                                               const LossOptions& options, TokenStatistics*) const {
  return {linear_cross_entropy(map_features(input), working_map(), targets,
                               {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss}),
          {}};
}

TokenScores MappedHead::compute_token_scores(const HeadInput& input, const at::Tensor& targets) const {
  const TokenStatistics statistics =
      token_statistics(map_features(input), working_map(), targets, /*with_gradient=*/false);
  return {statistics.log_probability, statistics.correct};
}

}  // namespace lmhead
