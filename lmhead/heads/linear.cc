#include "lmhead/heads/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/mapped_head.h"

namespace lmhead {
namespace {

struct LinearHeadOptions : HeadOptions {
  bool bias = false;
  std::string bias_initialization = "zeros";
  double logit_softcap = 0;
  std::vector<double> sigmoid_cap;
  std::optional<std::int64_t> mup_base_width;
  std::optional<double> initializer_range;
  double mean_row_penalty = 0;
  bool center_rows = false;
  double tied_share = 1;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("bias", bias, "adds a trained bias of V numbers to the logits");
    visitor.field("bias_initialization", bias_initialization,
                  "log_counts begins the bias at the logarithms of how often words occur in the training data",
                  {"zeros", "log_counts"});
    visitor.field("logit_softcap", logit_softcap, "c of c tanh(z / c); 0 leaves the logits as they are", at_least(0));
    visitor.field("sigmoid_cap", sigmoid_cap, "A, b, c of A sigmoid((z + b) / c), in place of logit_softcap; []: none");
    visitor.field("mup_base_width", mup_base_width, "logits are multiplied by this over hidden_size (muP); null: by 1",
                  between(1, kMostHeadSize));
    visitor.field("initializer_range", initializer_range,
                  "standard deviation of W's initial values, 0 begins it at zero; null: model.initializer_range",
                  at_least(0));
    visitor.field("mean_row_penalty", mean_row_penalty,
                  "adds this times the square norm of W's mean row to the training loss (mu-loss)", at_least(0));
    visitor.field("center_rows", center_rows, "subtracts W's mean row from each after every step (mu-centering)");
    visitor.field("tied_share", tied_share,
                  "of a tied model: the share of the run's steps after which W goes on as a matrix of its own, which "
                  "began as the embedding",
                  between(0, 1));
  }
};

LogitTransform transform_of(const LinearHeadOptions& options, std::int64_t hidden_size) {
  LogitTransform transform;
  if (options.mup_base_width) transform.scale = double(*options.mup_base_width) / double(hidden_size);
  transform.softcap = options.logit_softcap;
  if (options.sigmoid_cap.empty()) return transform;
  const std::vector<double>& cap = options.sigmoid_cap;
  require(cap.size() == 3 && cap[0] > 0 && cap[2] > 0, "head",
          "head.sigmoid_cap must be [] or three numbers A, b, c of which A and c are positive, got ", Json(cap).dump());
  require(options.logit_softcap == 0, "head", "head.logit_softcap must be 0 beside head.sigmoid_cap, got ",
          options.logit_softcap);
  transform.sigmoid_cap = {cap[0], cap[1], cap[2]};
  return transform;
}

/// log of (count + 1) over (all + V), so that a word that never occurs has a finite logit too; divided by `scale`,
/// which the bias is multiplied by. Counts are asked for only where values are drawn.
Initializer log_counts_initializer(const std::function<at::Tensor()>& counts, double scale) {
  return [counts, scale](at::Tensor& bias, RandomStream&) {
    const at::Tensor found = counts ? counts() : at::Tensor();
    require(found.defined(), "head",
            "head.bias_initialization must be zeros for data whose tokens are not counted, got log_counts");
    const at::Tensor shares = found.to(at::kDouble) + 1;
    bias.copy_((shares / shares.sum()).log() / scale);
  };
}

class LinearHead : public MappedHead {
 public:
  LinearHead(const LinearHeadOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size),
        transform_(transform_of(options, context.hidden_size)),
        mean_row_penalty_(options.mean_row_penalty),
        center_rows_(options.center_rows) {
    word_processes_ = context.word_processes;
    const bool is_tied = bool(context.tied_embedding);
    require(!is_tied || !options.initializer_range, "head",
            "head.initializer_range must be null where model.tie_word_embeddings is true: the embedding has its own");
    require(!is_tied || !options.center_rows, "head",
            "head.center_rows must be false where model.tie_word_embeddings is true: it would change the embedding");
    const bool counts = options.bias_initialization == "log_counts";
    require(options.bias || !counts, "head",
            "head.bias must be true for head.bias_initialization log_counts, got false");
    require(is_tied || options.tied_share == 1, "head",
            "head.tied_share must be 1 where model.tie_word_embeddings is false, got ", options.tied_share);
    if (options.tied_share < 1) {
      embedding_ = context.tied_embedding;
      tied_share_ = options.tied_share;
      weight_ = own(context.parameter(
          "lm_head.weight", {context.vocab_size, context.hidden_size},
          [embedding = embedding_](at::Tensor& weight, RandomStream&) { weight.copy_(embedding->value.detach()); }));
    } else {
      weight_ = own_words(context, options.initializer_range.value_or(context.initializer_range));
    }
    if (options.bias)
      bias_ = own(context.parameter(
          "lm_head.bias", {context.vocab_size},
          counts ? log_counts_initializer(context.token_counts, transform_.scale) : constant_initializer(0),
          ParameterKind::kBias));
  }

  explicit LinearHead(const LinearMap& map)
      : MappedHead(map.weight.size(1), map.weight.size(0)),
        weight_(fixed(ParameterKind::kHead, map.weight)),
        bias_(map.bias.defined() ? fixed(ParameterKind::kBias, map.bias) : nullptr),
        transform_(map.transform) {}

  std::optional<LinearMap> linear_map() const override {
    return LinearMap{weight_->value.detach(), bias_ ? bias_->value.detach() : at::Tensor(), transform_};
  }
  ParameterPtr own_matrix() const override { return embedding_ ? nullptr : if_own(weight_); }
  ParameterList word_rows() const override {
    if (embedding_ || mean_row_penalty_ > 0 || center_rows_) return {};
    return bias_ ? ParameterList{weight_, bias_} : ParameterList{weight_};
  }
  double flops_per_token(std::int64_t) const override { return 6 * double(vocab_size()) * double(hidden_size()); }
  void after_update(const StepContext& step) override {
    at::NoGradGuard no_grad;
    if (is_still_tied(step)) weight_->value.copy_(embedding_->value);
    if (center_rows_) weight_->value.sub_(weight_->value.mean(at::IntArrayRef{0}, /*keepdim=*/true));
  }

 private:
  /// Whether the embedding is what a step of training is computed with.
  bool is_still_tied(const StepContext& step) const {
    if (!embedding_) return false;
    require(step.step >= 1 && step.steps >= step.step, "head",
            "the step of training and their number must be given to a head with tied_share below 1, got ", step.step,
            " of ", step.steps);
    return double(step.step) <= tied_share_ * double(step.steps);
  }
  /// While W is tied it is a copy of the embedding: that gets the gradient of the product as it would without a copy,
  /// and so does W, whose own averages in the optimiser are then those of its gradient when it goes on alone.
  at::Tensor trained_weight(const StepContext& step) const {
    if (!is_still_tied(step)) return weight_->working;
    return embedding_->working + (weight_->working - weight_->working.detach());
  }
  static ParameterPtr fixed(ParameterKind kind, const at::Tensor& value) {
    return std::make_shared<Parameter>(Parameter{"", kind, value, value, {}});
  }
  at::Tensor map_features(const HeadInput& input) const override { return input.hidden; }
  LinearMap working_map() const override {
    return {weight_->working, bias_ ? bias_->working : at::Tensor(), transform_};
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics* statistics) const override {
    LinearMap map = working_map();
    map.weight = trained_weight(input.step);
    return with_penalty(cross_entropy(input.hidden, map, targets, options, statistics), input.step);
  }
  TrainingLoss with_penalty(const at::Tensor& loss, const StepContext& step) const {
    if (mean_row_penalty_ == 0) return {loss, {}};
    const ParameterPtr& matrix = is_still_tied(step) ? embedding_ : weight_;
    const at::Tensor square = matrix->value.mean(at::IntArrayRef{0}).square().sum();
    return {loss + mean_row_penalty_ * square.to(loss.scalar_type()),
            {{"mean_row_norm", std::sqrt(square.item<double>())}}};
  }

  ParameterPtr weight_, bias_;
  ParameterPtr embedding_;  // while the head is tied for a share of a run
  double tied_share_ = 1;
  LogitTransform transform_;
  double mean_row_penalty_ = 0;
  bool center_rows_ = false;
};

}  // namespace

HeadKind linear_head() {
  return describe_head<LinearHead, LinearHeadOptions>(
      "linear", "z = cap(s (W h + b)), W: V x D", "1: 6 V D operations a token", "D numbers a token",
      "Press & Wolf 2017 (tied), Gemma 2 (soft-cap), Yang et al. 2022 (muP scale), modded-nanogpt's records 8 (W from "
      "zero), 53 (tied for a share of a run) and 54 (sigmoid cap), arXiv 2601.02031 (mean row)");
}

std::unique_ptr<LmHead> make_linear_head(const LinearMap& map) { return std::make_unique<LinearHead>(map); }

}  // namespace lmhead
