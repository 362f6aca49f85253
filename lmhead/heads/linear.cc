#include "lmhead/heads/linear.h"

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/mapped_head.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

struct LinearHeadOptions : HeadOptions {
  bool bias = false;
  double logit_softcap = 0;
  std::optional<std::int64_t> mup_base_width;
  std::optional<double> initializer_range;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("bias", bias, "adds a trained bias of V numbers to the logits");
    visitor.field("logit_softcap", logit_softcap, "c of c tanh(z / c); 0 leaves the logits as they are", at_least(0));
    visitor.field("mup_base_width", mup_base_width, "logits are multiplied by this over hidden_size (muP); null: by 1",
                  at_least(1));
    visitor.field("initializer_range", initializer_range,
                  "standard deviation of W's initial values; null: model.initializer_range", at_least(0));
  }
};

class LinearHead : public MappedHead {
 public:
  LinearHead(const LinearHeadOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size) {
    transform_.softcap = options.logit_softcap;
    if (options.mup_base_width) transform_.scale = double(*options.mup_base_width) / double(context.hidden_size);
    owns_weight_ = !context.tied_embedding;
    require(owns_weight_ || !options.initializer_range, "head",
            "head.initializer_range must be null where model.tie_word_embeddings is true: the embedding has its own");
    weight_ =
        owns_weight_
            ? own(context.parameter("lm_head.weight", {context.vocab_size, context.hidden_size},
                                    normal_initializer(options.initializer_range.value_or(context.initializer_range))))
            : context.tied_embedding;
    if (options.bias)
      bias_ =
          own(context.parameter("lm_head.bias", {context.vocab_size}, constant_initializer(0), ParameterKind::kBias));
  }

  explicit LinearHead(const LinearMap& map)
      : MappedHead(map.weight.size(1), map.weight.size(0)),
        weight_(fixed(ParameterKind::kHead, map.weight)),
        bias_(map.bias.defined() ? fixed(ParameterKind::kBias, map.bias) : nullptr),
        transform_(map.transform) {}

  std::optional<LinearMap> linear_map() const override {
    return LinearMap{weight_->value.detach(), bias_ ? bias_->value.detach() : at::Tensor(), transform_};
  }
  ParameterPtr own_matrix() const override { return owns_weight_ ? weight_ : nullptr; }
  double flops_per_token(std::int64_t) const override { return 6 * double(vocab_size()) * double(hidden_size()); }

 private:
  static ParameterPtr fixed(ParameterKind kind, const at::Tensor& value) {
    return std::make_shared<Parameter>(Parameter{"", kind, value, value, {}});
  }
  at::Tensor map_features(const HeadInput& input) const override { return input.hidden; }
  LinearMap working_map() const override {
    return {weight_->working, bias_ ? bias_->working : at::Tensor(), transform_};
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics* statistics) const override {
    if (!statistics) return MappedHead::compute_training_loss(input, targets, options, nullptr);
    auto result = linear_cross_entropy_with_statistics(
        input.hidden, working_map(), targets, {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss});
    *statistics = std::move(result.statistics);
    return {result.loss, {}};
  }

  ParameterPtr weight_, bias_;
  bool owns_weight_ = false;  // else it is the embedding's, or was made elsewhere
  LogitTransform transform_;
};

}  // namespace

HeadKind linear_head() {
  return describe_head<LinearHead, LinearHeadOptions>(
      "linear", "z = softcap(s (W h + b)), W: V x D", "1: 6 V D operations a token", "D numbers a token",
      "Press & Wolf 2017 (tied), Gemma 2 (soft-cap), Yang et al. 2022 (muP scale)");
}

std::unique_ptr<LmHead> make_linear_head(const LinearMap& map) { return std::make_unique<LinearHead>(map); }

}  // namespace lmhead
