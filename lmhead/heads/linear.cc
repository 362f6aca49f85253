#include "lmhead/heads/linear.h"

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

class LinearHead : public LmHead {
 public:
  LinearHead(const LinearHeadOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size) {
    transform_.softcap = options.logit_softcap;
    if (options.mup_base_width) transform_.scale = double(*options.mup_base_width) / double(context.hidden_size);
    require(!context.tied_embedding || !options.initializer_range, "head",
            "head.initializer_range must be null where model.tie_word_embeddings is true: the embedding has its own");
    weight_ = context.tied_embedding
                  ? context.tied_embedding
                  : own(context.factory.make(
                        "lm_head.weight", ParameterKind::kHead, {context.vocab_size, context.hidden_size},
                        normal_initializer(options.initializer_range.value_or(context.initializer_range))));
    if (options.bias)
      bias_ = own(
          context.factory.make("lm_head.bias", ParameterKind::kBias, {context.vocab_size}, constant_initializer(0)));
  }

  explicit LinearHead(const LinearMap& map)
      : LmHead(map.weight.size(1), map.weight.size(0)),
        weight_(fixed(ParameterKind::kHead, map.weight)),
        bias_(map.bias.defined() ? fixed(ParameterKind::kBias, map.bias) : nullptr),
        transform_(map.transform) {}

  std::optional<LinearMap> linear_map() const override {
    return LinearMap{weight_->value.detach(), bias_ ? bias_->value.detach() : at::Tensor(), transform_};
  }

 private:
  static ParameterPtr fixed(ParameterKind kind, const at::Tensor& value) {
    return std::make_shared<Parameter>(Parameter{"", kind, value, value, {}});
  }
  LinearMap working_map() const { return {weight_->working, bias_ ? bias_->working : at::Tensor(), transform_}; }
  at::Tensor compute_logits(const HeadInput& input) const override {
    return linear_logits(input.hidden, working_map());
  }
  TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const override {
    const TokenStatistics statistics = token_statistics(input.hidden, working_map(), targets, /*with_gradient=*/false);
    return {statistics.log_probability, statistics.correct};
  }
  at::Tensor compute_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                          TokenStatistics* statistics) const override {
    const LinearCrossEntropyOptions how{.label_smoothing = options.label_smoothing, .z_loss = options.z_loss};
    if (!statistics) return linear_cross_entropy(input.hidden, working_map(), targets, how);
    const auto result = linear_cross_entropy_with_statistics(input.hidden, working_map(), targets, how);
    *statistics = result.statistics;
    return result.loss;
  }

  ParameterPtr weight_, bias_;
  LogitTransform transform_;
};

}  // namespace

void LinearHeadOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("bias", bias, "adds a trained bias of V numbers to the logits");
  visitor.field("logit_softcap", logit_softcap, "c of c tanh(z / c); 0 leaves the logits as they are", at_least(0));
  visitor.field("mup_base_width", mup_base_width, "logits are multiplied by this over hidden_size (muP); null: by 1",
                at_least(1));
  visitor.field("initializer_range", initializer_range,
                "standard deviation of W's initial values; null: model.initializer_range", at_least(0));
}

std::unique_ptr<LmHead> make_linear_head(const HeadOptions& options, const HeadContext& context) {
  return std::make_unique<LinearHead>(dynamic_cast<const LinearHeadOptions&>(options), context);
}

std::unique_ptr<LmHead> make_linear_head(const LinearMap& map) { return std::make_unique<LinearHead>(map); }

}  // namespace lmhead
