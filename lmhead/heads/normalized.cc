// Cosines in place of products: the norms of words and features say nothing, one trained number says how sharp.
#include <ATen/TensorOperators.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>

#include <cmath>

#include "lmhead/heads/head_list.h"
#include "lmhead/heads/mapped_head.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/kernels/block_operations.h"
#include "lmhead/kernels/unit_rows.h"

namespace lmhead {
namespace {

struct NormalizedOptions : HeadOptions {
  std::optional<double> initial_scale;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("initial_scale", initial_scale,
                  "s at the beginning; null: sqrt(hidden_size), for logits of variance 1", above(0));
  }
};

/// z = s w_x . h / (|w_x| |h|). The logarithm of s is what is trained, so that a step changes s by a share of itself.
class NormalizedHead : public MappedHead {
 public:
  NormalizedHead(const NormalizedOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size) {
    weight_ = own_words(context, context.initializer_range);
    const double scale = options.initial_scale.value_or(std::sqrt(double(context.hidden_size)));
    log_scale_ =
        own(context.parameter("lm_head.log_scale", {1}, constant_initializer(std::log(scale)), ParameterKind::kVector));
  }

  double flops_per_token(std::int64_t) const override { return 6 * double(vocab_size()) * double(hidden_size()); }
  double memory_per_token(std::int64_t) const override { return 3 * double(hidden_size()); }

 private:
  /// Rows of length 1 times `length`, which is a number; a row of zeros stays one.
  at::Tensor with_length(const at::Tensor& rows, const at::Tensor& length) const {
    const at::Tensor gain = (length / std::sqrt(double(hidden_size()))).expand({hidden_size()});
    return rms_norm(rows, gain, kUnitRowEps, rows.scalar_type());
  }
  at::Tensor map_features(const HeadInput& input) const override {
    return with_length(input.hidden, at::exp(log_scale_->working));
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics* statistics) const override {
    const at::Tensor features = map_features(input);
    const TokenLossProblem problem{
        .hidden = features,
        .map = {weight_->working},
        .targets = targets,
        .further =
            mean_logit(features, options.label_smoothing == 0 ? weight_->working : working_map().weight, options),
        .loss = smoothed_loss(options),
        .unit_rows = true};
    if (linear_token_loss_takes(problem)) return {linear_token_loss(problem, Reduction::kMean), {}};
    return MappedHead::compute_training_loss(input, targets, options, statistics);
  }
  LinearMap working_map() const override {
    return {with_length(weight_->working, at::full({1}, 1.0, log_scale_->working.options()))};
  }

  ParameterPtr weight_, log_scale_;
};

}  // namespace

HeadKind normalized_head() {
  return describe_head<NormalizedHead, NormalizedOptions>(
      "normalized", "z = s w_x . h / (|w_x| |h|), W: V x D, s: one trained number",
      "1: 6 V D operations a token, and the norms of V rows a step", "3 D numbers a token",
      "Loshchilov et al. 2024 (nGPT), arXiv 2410.01131");
}

}  // namespace lmhead
