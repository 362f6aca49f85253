#include "lmhead/heads/low_rank.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

class LowRankHead : public LmHead {
 public:
  LowRankHead(const LowRankHeadOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size) {
    require(!context.tied_embedding, "head",
            "low_rank must have model.tie_word_embeddings = false, got true: A and B are not the embedding");
    require(options.rank <= context.hidden_size, "head", "head.rank must be at most hidden_size ", context.hidden_size,
            ", got ", options.rank);
    const double range = context.initializer_range;
    // B keeps the scale of its input, A has the dense head's scale times sqrt(D / k): initial logits are then
    // distributed as the dense head's are, whatever the rank.
    const double width = double(context.hidden_size), rank = double(options.rank);
    down_ = own(context.factory.make("lm_head.down_proj.weight", ParameterKind::kHead,
                                     {options.rank, context.hidden_size}, normal_initializer(1 / std::sqrt(width))));
    up_ = own(context.factory.make("lm_head.up_proj.weight", ParameterKind::kHead, {context.vocab_size, options.rank},
                                   normal_initializer(range * std::sqrt(width / rank))));
  }

  std::optional<LinearMap> linear_map() const override {
    at::NoGradGuard no_grad;
    return LinearMap{at::mm(up_->value, down_->value), {}, 1, 0};
  }

 private:
  at::Tensor compute_logits(const HeadInput& input) const override {
    return at::linear(at::linear(input.hidden, down_->working), up_->working);
  }
  TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const override {
    const TokenStatistics statistics = token_statistics(
        at::linear(input.hidden, down_->working), LinearMap{up_->working, {}, 1, 0}, targets, /*with_gradient=*/false);
    return {statistics.log_probability, statistics.correct};
  }
  at::Tensor compute_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                          TokenStatistics*) const override {
    return linear_cross_entropy(at::linear(input.hidden, down_->working), LinearMap{up_->working, {}, 1, 0}, targets,
                                {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss});
  }

  ParameterPtr down_, up_;
};

}  // namespace

void LowRankHeadOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("rank", rank, "k, the inner width of W = A B", at_least(1));
}

std::unique_ptr<LmHead> make_low_rank_head(const HeadOptions& options, const HeadContext& context) {
  return std::make_unique<LowRankHead>(dynamic_cast<const LowRankHeadOptions&>(options), context);
}

}  // namespace lmhead
