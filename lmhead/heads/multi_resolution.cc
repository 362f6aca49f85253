// The linear head, held to classes of words as well as to words while training begins.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/head_schedule.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/heads/word_classes.h"
#include "lmhead/heads/word_partition.h"
#include "lmhead/kernels/plain_logits.h"

namespace lmhead {
namespace {

struct MultiResolutionOptions : HeadOptions {
  std::vector<std::int64_t> classes;
  std::string by = "mass";
  HeadSchedule weight{.start = 0.5, .end = 0};
  bool prefix = false;
  HeadSchedule prefix_weight{.start = 0.25, .end = 0};
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("classes", classes,
                  "how many classes each level has, coarse to fine; empty: the cube root of vocab_size and its square",
                  between(2, kMostHeadSize));
    visitor.field("by", by, ways_to_partition_doc(), ways_to_partition());
    visitor.group("weight", weight, "lambda, of each level's loss; at 0 levels cost nothing");
    visitor.field("prefix", prefix,
                  "adds a second target: the longest other word whose bytes the target begins with, the target itself "
                  "where there is none");
    visitor.group("prefix_weight", prefix_weight, "of the second target's loss");
  }
};

std::vector<std::int64_t> levels_of(const MultiResolutionOptions& options, std::int64_t vocab_size) {
  std::vector<std::int64_t> levels;
  if (options.classes.empty()) {
    for (const double power : {1.0 / 3, 2.0 / 3}) {
      const auto classes = std::int64_t(std::llround(std::pow(double(vocab_size), power)));
      if (classes > 1 && classes < vocab_size && (levels.empty() || levels.back() < classes)) levels.push_back(classes);
    }
    return levels;
  }
  for (const std::int64_t classes : options.classes) {
    require(classes <= vocab_size && (levels.empty() || levels.back() < classes), "multi_resolution",
            "classes must rise and be at most V = ", vocab_size, ", got ", at::IntArrayRef(options.classes));
    levels.push_back(classes);
  }
  return levels;
}

/// z = W h, W's rows in the order of classes. Training adds lambda(t) (lse(z) - lse of the z of y's class) a level:
/// -log of the probability that the class has, whose words are a run of one pass over the logits.
class MultiResolutionHead : public LmHead {
 public:
  MultiResolutionHead(const MultiResolutionOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size),
        options_(options),
        level_sizes_(levels_of(options, context.vocab_size)) {
    require(!context.tied_embedding, "multi_resolution",
            "multi_resolution must have model.tie_word_embeddings = false, got true: its rows stand in the order of "
            "classes");
    own_levels(context);
    weight_ = own(context.parameter("lm_head.weight", {context.vocab_size, context.hidden_size},
                                    normal_initializer(context.initializer_range)));
    if (options.prefix)
      prefixes_ = own(context.parameter("lm_head.prefix_of", {context.vocab_size},
                                        whole_numbers([context] { return prefixes_of_words(context); }),
                                        ParameterKind::kConstant));
  }

  std::optional<LinearMap> linear_map() const override {
    at::NoGradGuard no_grad;
    return LinearMap{weight_->value.index_select(0, order_.layout()->rows)};
  }
  double flops_per_token(std::int64_t) const override { return 6 * double(hidden_size()) * double(vocab_size()); }
  double memory_per_token(std::int64_t) const override {
    const double ranges = double(level_sizes_.size()) + (prefixes_ ? 1 : 0);
    return double(hidden_size()) + 4 + 4 * ranges;
  }

 private:
  void own_levels(const HeadContext& context) {
    // One order for all levels, each cut into classes of its own.
    const auto order = own(
        context.parameter("lm_head.word_order", {context.vocab_size},
                          whole_numbers([by = options_.by, context] { return partition_words(by, 1, context).order; }),
                          ParameterKind::kConstant));
    const auto sizes_of = [&](const std::string& name, std::int64_t classes) {
      return own(context.parameter(name, {classes}, whole_numbers([by = options_.by, classes, context] {
                                     return partition_words(by, classes, context).sizes;
                                   }),
                                   ParameterKind::kConstant));
    };
    order_ = WordClasses(order, nullptr);
    for (std::size_t level = 0; level < level_sizes_.size(); ++level)
      levels_.emplace_back(order, sizes_of("lm_head.class_sizes." + std::to_string(level), level_sizes_[level]));
  }
  LinearMap map() const { return {weight_->working}; }
  at::Tensor rows_of(const at::Tensor& targets) const { return order_.layout()->rows.index_select(0, targets); }

  at::Tensor compute_logits(const HeadInput& input) const override {
    return linear_logits(input.hidden, map()).index_select(1, order_.layout()->rows);
  }
  at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const override {
    return linear_cross_entropy(input.hidden, map(), rows_of(targets), {.reduction = Reduction::kNone});
  }
  TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const override {
    const TokenStatistics statistics = token_statistics(input.hidden, map(), rows_of(targets), /*with_gradient=*/false);
    return {statistics.log_probability, statistics.correct};
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                     TokenStatistics*) const override {
    const double weight = levels_.empty() ? 0 : options_.weight.at(input.step),
                 of_prefix = prefixes_ ? options_.prefix_weight.at(input.step) : 0;
    TrainingLoss result{
        weight == 0 && of_prefix == 0
            ? linear_cross_entropy(input.hidden, map(), rows_of(targets),
                                   {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss})
            : level_loss(input.hidden, targets, options, weight, of_prefix),
        {{"level_weight", weight}}};
    if (prefixes_) result.figures.emplace_back("prefix_weight", of_prefix);
    return result;
  }

  /// The words of each target's class at every level, and the target's prefix where that is a target too: [N, R, 2].
  at::Tensor ranges_of(const at::Tensor& targets, bool with_levels, bool with_prefix) const {
    std::vector<at::Tensor> ranges;
    for (std::size_t level = 0; with_levels && level < levels_.size(); ++level) {
      const auto layout = levels_[level].layout();
      const at::Tensor begins = at::tensor(layout->begins, at::kLong).to(targets.device());
      const at::Tensor classes = layout->classes.index_select(0, targets);
      ranges.push_back(at::stack({begins.index_select(0, classes), begins.index_select(0, classes + 1)}, 1));
    }
    if (with_prefix) {
      const at::Tensor row = rows_of(prefixes_->value.to(at::kLong).index_select(0, targets));
      ranges.push_back(at::stack({row, row + 1}, 1));
    }
    return at::stack(ranges, 1);
  }
  /// The mean over tokens, each range's logsumexp counting as what its words have together.
  at::Tensor level_loss(const at::Tensor& hidden, const at::Tensor& targets, const LossOptions& options, double weight,
                        double of_prefix) const {
    const at::Tensor ranges = ranges_of(targets, weight != 0, of_prefix != 0);
    std::vector<double> weights(std::size_t(ranges.size(1)), weight);
    if (of_prefix != 0) weights.back() = of_prefix;
    const auto loss = [weights, smoothed = smoothed_loss(options)](std::int64_t token, const TokenTerms& terms,
                                                                   const TokenSlopes& by) {
      double loss = smoothed(token, terms, by);
      for (std::size_t range = 0; range < weights.size(); ++range) {
        loss += weights[range] * (*terms.logsumexp - terms.range_logsumexp[range]);
        *by.logsumexp += weights[range], by.range_logsumexp[range] = -weights[range];
      }
      return loss;
    };
    const TokenLossProblem problem{.hidden = hidden,
                                   .map = map(),
                                   .targets = rows_of(targets),
                                   .further = mean_logit(hidden, weight_->working, options),
                                   .loss = loss,
                                   .ranges = ranges};
    if (linear_token_loss_takes(problem)) return linear_token_loss(problem, Reduction::kMean);

    const at::Tensor logits = wide_linear_logits(hidden, map()), lse = at::logsumexp(logits, 1);
    const at::Tensor words = at::arange(vocab_size(), ranges.options());
    at::Tensor losses = plain_smoothed_losses(logits, problem.targets, options);
    for (std::size_t range = 0; range < weights.size(); ++range) {
      const at::Tensor limits = ranges.select(1, std::int64_t(range));
      const at::Tensor is_outside =
          words.lt(limits.select(1, 0).unsqueeze(1)).logical_or(words.ge(limits.select(1, 1).unsqueeze(1)));
      losses = losses + weights[range] * (lse - at::logsumexp(logits.masked_fill(is_outside, -INFINITY), 1));
    }
    return losses.mean();
  }

  MultiResolutionOptions options_;
  std::vector<std::int64_t> level_sizes_;  // classes of each
  WordClasses order_;                      // all words in one class
  std::vector<WordClasses> levels_;
  ParameterPtr weight_;
  ParameterPtr prefixes_;  // [V] by id, or null
};

}  // namespace

HeadKind multi_resolution_head() {
  return describe_head<MultiResolutionHead, MultiResolutionOptions>(
      "multi_resolution",
      "z = W h; trained with lambda(t) sum_l (lse(z) - lse of the z of y's class of level l) beside, and where asked "
      "with a second target, y's longest byte prefix",
      "1, and a sum over the words of one class a level while levels weigh something: 6 V D operations a token",
      "D numbers a token, 4 a level", "ours; the second target is that of modded-nanogpt's record 88");
}

}  // namespace lmhead
