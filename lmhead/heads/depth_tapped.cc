// Words in blocks of frequency, each read from features of its own: inner layers tapped, the last one bent.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/activation.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/inner_blocks.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/heads/word_classes.h"
#include "lmhead/heads/word_partition.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct DepthTappedOptions : HeadOptions {
  std::int64_t blocks = 4;
  std::string by = "sqrt";
  std::int64_t taps = 1;
  std::optional<std::int64_t> width;
  std::string activation = "gelu";
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("blocks", blocks, "C, how many blocks of words there are", between(1, kMostHeadSize));
    visitor.field("by", by, ways_to_partition_doc(), ways_to_partition());
    visitor.field("taps", taps, "inner blocks of the body whose features are added, at even distances",
                  between(0, kMostHeadSize));
    visitor.field("width", width,
                  "k, of the bent features of a block; 0: none; null: a quarter of hidden_size, rounded up",
                  between(0, kMostHeadSize));
    visitor.field("activation", activation, "phi", phi_names());
  }
};

/// z_x = w_x . f_c(x), f_c = a_c h + sum_l a_cl norm(h^(l)) + B_c phi(A_c h): one softmax over the words of all blocks,
/// whose gradient enters the body at several depths. Taps and B begin at zero and a_c at one: the head begins as the
/// linear one.
class DepthTappedHead : public LmHead {
 public:
  DepthTappedHead(const DepthTappedOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size),
        count_(options.blocks),
        phi_(phi_named(options.activation)),
        layers_(inner_blocks(options.taps, context.num_hidden_layers, "depth_tapped", "taps")),
        classes_(own_classes(options, context)) {
    const std::int64_t hidden = context.hidden_size, width = options.width.value_or((hidden + 3) / 4);
    weight_ = own(context.parameter("lm_head.weight", {context.vocab_size, hidden},
                                    normal_initializer(context.initializer_range)));
    const auto depths = std::int64_t(layers_.size()) + 1;
    mix_ = own(context.parameter(
        "lm_head.mix", {count_, depths},
        [](at::Tensor& tensor, RandomStream&) {
          tensor.fill_(0);
          tensor.select(1, 0).fill_(1);
        },
        ParameterKind::kVector));
    for (std::int64_t index = 0; index < (width > 0 ? count_ : 0); ++index) {
      const std::string name = "lm_head.blocks." + std::to_string(index);
      bends_.push_back({own(context.parameter(name + ".down_proj.weight", {width, hidden},
                                              normal_initializer(1 / std::sqrt(double(hidden))))),
                        own(context.parameter(name + ".up_proj.weight", {hidden, width}, constant_initializer(0)))});
    }
  }

  HeadNeeds needs() const override { return {.layers = layers_}; }
  std::optional<LinearMap> linear_map() const override {
    if (count_ > 1 || !layers_.empty() || !bends_.empty()) return std::nullopt;
    at::NoGradGuard no_grad;
    return LinearMap{(weight_->value * mix_->value).index_select(0, classes_.layout()->rows)};
  }
  double flops_per_token(std::int64_t) const override {
    double numbers = double(weight_->value.numel());
    for (const Bend& bend : bends_) numbers += double(bend.down->value.numel() + bend.up->value.numel());
    return 6 * numbers;
  }
  double memory_per_token(std::int64_t) const override { return double(hidden_size()) * (1 + double(layers_.size())); }

 private:
  struct Bend {
    ParameterPtr down, up;  // A [k, D], B [D, k]
  };

  WordClasses own_classes(const DepthTappedOptions& options, const HeadContext& context) {
    require(
        !context.tied_embedding, "depth_tapped",
        "depth_tapped must have model.tie_word_embeddings = false, got true: its rows stand in the order of blocks");
    require(count_ <= context.vocab_size, "depth_tapped", "blocks must be at most V = ", context.vocab_size, ", got ",
            count_);
    const auto constants = partition_constants(
        context, count_, [by = options.by, count = count_, context] { return partition_words(by, count, context); });
    return {own(constants.order), own(constants.sizes)};
  }

  /// What features are made of, beside those of tokens: mix, the gain of a layer's norm, A and B of every block.
  MadeRows::Tensors maps() const {
    MadeRows::Tensors tensors = {mix_->working, at::ones({hidden_size()}, mix_->value.options().requires_grad(false))};
    for (const Bend& bend : bends_) tensors.insert(tensors.end(), {bend.down->working, bend.up->working});
    return tensors;
  }
  /// f_c [M, D] for every block, from the features of tokens and `maps()`.
  static std::vector<at::Tensor> features_of(const MadeRows::Tensors& of_tokens, const MadeRows::Tensors& maps,
                                             const Phi& phi) {
    constexpr std::size_t kBends = 2;
    const at::Tensor &hidden = of_tokens[0], &mix = maps[0];
    const at::ScalarType type = hidden.scalar_type();
    MadeRows::Tensors depths = {hidden};
    for (std::size_t depth = 1; depth < of_tokens.size(); ++depth)
      depths.push_back(normed_layer(of_tokens[depth], maps[1], type));
    std::vector<at::Tensor> features;
    for (std::int64_t index = 0; index < mix.size(0); ++index) {
      at::Tensor sum;
      for (std::size_t depth = 0; depth < depths.size(); ++depth) {
        const at::Tensor part = depths[depth] * mix[index][std::int64_t(depth)].to(type);
        sum = sum.defined() ? sum + part : part;
      }
      if (maps.size() > kBends) {
        const std::size_t down = kBends + 2 * std::size_t(index);
        sum = sum + projection(phi.apply(projection(hidden, maps[down], {})), maps[down + 1], {});
      }
      features.push_back(sum);
    }
    return features;
  }
  static MadeRows::Tensors tokens_of(const HeadInput& input) {
    MadeRows::Tensors tensors = {input.hidden};
    tensors.insert(tensors.end(), input.layers.begin(), input.layers.end());
    return tensors;
  }
  at::Tensor compute_logits(const HeadInput& input) const override {
    const auto layout = classes_.layout();
    const std::vector<at::Tensor> features = features_of(tokens_of(input), maps(), phi_);
    const auto weights = weight_->working.split_with_sizes(layout->sizes);
    std::vector<at::Tensor> sorted;
    for (std::size_t index = 0; index < features.size(); ++index)
      sorted.push_back(linear_logits(features[index], {weights[index]}));
    return at::cat(sorted, 1).index_select(1, layout->rows);
  }
  /// Losses of every token, or their mean. Features are made for a block of tokens at a time: those of all blocks of
  /// words would be C N D numbers, and their gradients as many.
  at::Tensor losses(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                    Reduction reduction) const {
    const auto layout = classes_.layout();
    // Outlives the head where the backward pass comes late.
    const auto make = [phi = &phi_, size = vocab_size()](std::int64_t, std::int64_t, const MadeRows::Tensors& of_tokens,
                                                         const MadeRows::Tensors& shared) {
      const MadeRows::Tensors maps(shared.begin(), shared.end() - 1);
      const MadeRows::Tensors features = features_of(of_tokens, maps, *phi);
      return MadeRows::Block{features, mean_logit_by_sums(features, shared.back(), size)};
    };
    MadeRows made{.by_token = tokens_of(input),
                  .shared = maps(),
                  .make = make,
                  .further_count = options.label_smoothing == 0 ? 0 : 1};
    made.shared.push_back(sums_of_words(weight_->working, options, layout->sizes));
    const TokenLossProblem problem{.map = {weight_->working},
                                   .targets = layout->rows.index_select(0, targets),
                                   .loss = smoothed_loss(options),
                                   .feature_ends = {layout->begins.begin() + 1, layout->begins.end()},
                                   .made = made};
    if (linear_token_loss_takes(problem)) return linear_token_loss(problem, reduction);
    const at::Tensor all = plain_smoothed_losses(widened(compute_logits(input)), targets, options);
    return reduction == Reduction::kNone ? all : all.mean();
  }
  at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const override {
    return losses(input, targets, {}, Reduction::kNone);
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics*) const override {
    return {losses(input, targets, options, Reduction::kMean), {}};
  }

  std::int64_t count_;
  const Phi& phi_;
  std::vector<std::int64_t> layers_;
  WordClasses classes_;
  ParameterPtr weight_, mix_;
  std::vector<Bend> bends_;  // one a block, or none
};

}  // namespace

HeadKind depth_tapped_head() {
  return describe_head<DepthTappedHead, DepthTappedOptions>(
      "depth_tapped",
      "z_x = w_x . f_c(x), f_c = a_c h + sum_l a_cl norm(h^(l)) + B_c phi(A_c h), c: a block of words by frequency",
      "1 + 2 C k / V: 6 (V D + 2 C k D) operations a token",
      "(1 + taps) D numbers a token; those of C features stand together for 512 tokens", "ours");
}

}  // namespace lmhead
