#include "lmhead/heads/mapped_head.h"

#include "lmhead/base/error.h"
#include "lmhead/heads/shared_words.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

void MappedHead::require_whole(const char* what) const {
  require(word_processes_.alone(), "head", what, " must be asked of a head that one process has whole, got one of ",
          word_processes_.size(), " processes");
}

at::Tensor MappedHead::compute_logits(const HeadInput& input) const {
  require_whole("logits");
  return linear_logits(map_features(input), working_map());
}

at::Tensor MappedHead::compute_token_losses(const HeadInput& input, const at::Tensor& targets) const {
  require_whole("losses of tokens");
  return linear_cross_entropy(map_features(input), working_map(), targets, {.reduction = Reduction::kNone});
}

at::Tensor MappedHead::cross_entropy(const at::Tensor& features, const LinearMap& map, const at::Tensor& targets,
                                     const LossOptions& options, TokenStatistics* statistics) const {
  if (!word_processes_.alone()) {
    const SharedWords words{map, vocab_size(), word_processes_};
    if (statistics)
      *statistics = shared_words_statistics(features, words, targets, TokensOf::kThisProcess, /*with_gradient=*/true);
    return shared_words_cross_entropy(features, words, targets, options);
  }
  const LinearCrossEntropyOptions terms{.label_smoothing = options.label_smoothing, .z_loss = options.z_loss};
  if (!statistics) return linear_cross_entropy(features, map, targets, terms);
  auto result = linear_cross_entropy_with_statistics(features, map, targets, terms);
  *statistics = std::move(result.statistics);
  return result.loss;
}

TrainingLoss MappedHead::compute_training_loss(const HeadInput& input, const at::Tensor& targets,
                                               const LossOptions& options, TokenStatistics*) const {
  return {cross_entropy(map_features(input), working_map(), targets, options), {}};
}

TokenScores MappedHead::compute_token_scores(const HeadInput& input, const at::Tensor& targets) const {
  const at::Tensor features = map_features(input);
  const TokenStatistics statistics =
      word_processes_.alone() ? token_statistics(features, working_map(), targets, /*with_gradient=*/false)
                              : shared_words_statistics(features, {working_map(), vocab_size(), word_processes_},
                                                        targets, TokensOf::kThisProcess, /*with_gradient=*/false);
  return {statistics.log_probability, statistics.correct};
}

}  // namespace lmhead
