// The vocabulary in classes: first which class, then which of its words.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/word_classes.h"
#include "lmhead/heads/word_partition.h"

namespace lmhead {
namespace {

struct TwoLevelOptions : HeadOptions {
  std::optional<std::int64_t> classes;
  std::string by = "mass";
  std::string weights = "";
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("classes", classes, "C, how many classes there are; null: the square root of vocab_size, rounded",
                  between(1, kMostHeadSize));
    static const std::string doc =
        std::string(ways_to_partition_doc()) + ", kmeans clusters the rows of a trained matrix";
    std::vector<std::string> ways = ways_to_partition();
    ways.emplace_back("kmeans");
    visitor.field("by", by, doc.c_str(), ways);
    visitor.field("weights", weights,
                  "of kmeans: the model.safetensors of a checkpoint with the same vocabulary; read whenever training "
                  "starts or goes on, and not by who reads the run");
  }
};

/// p(x) = p(c | h) p(x | c, h): W's rows stand in the order of classes, so that a class is a slice of them. Of one
/// class there is no matrix of classes.
class TwoLevelHead : public LmHead {
 public:
  TwoLevelHead(const TwoLevelOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size),
        count_(
            options.classes.value_or(std::max<std::int64_t>(1, std::llround(std::sqrt(double(context.vocab_size)))))),
        classes_(own_classes(options, context)) {
    const Initializer initializer = normal_initializer(context.initializer_range);
    weight_ = own(context.parameter("lm_head.weight", {context.vocab_size, context.hidden_size}, initializer));
    if (count_ > 1)
      class_weight_ = own(context.parameter("lm_head.class_proj.weight", {count_, context.hidden_size}, initializer));
  }

  double flops_per_token(std::int64_t) const override {
    const double classes = double(count_), words = double(vocab_size());
    return 6 * double(hidden_size()) * (count_ > 1 ? classes + words / classes : words);
  }
  double memory_per_token(std::int64_t) const override { return 3 * double(hidden_size()) + 8; }
  void check_loss(const LossOptions& options) const override { require_no_logit_terms(options, "two_level"); }

 private:
  WordClasses own_classes(const TwoLevelOptions& options, const HeadContext& context) {
    require(!context.tied_embedding, "two_level",
            "two_level must have model.tie_word_embeddings = false, got true: its rows stand in the order of classes");
    require(count_ <= context.vocab_size, "two_level", "classes must be at most V = ", context.vocab_size, ", got ",
            count_);
    const bool is_kmeans = options.by == "kmeans";
    require(is_kmeans || options.weights.empty(), "two_level", "weights must be empty unless by is kmeans, got ",
            options.weights);
    const auto constants = partition_constants(context, count_, [options, count = count_, context] {
      if (options.by != "kmeans") return partition_words(options.by, count, context);
      require(bool(context.read_trained_matrix), "two_level", "by must not be kmeans where no matrix can be read");
      return cluster_words(context.read_trained_matrix(options.weights), count, context);
    });
    return {own(constants.order), own(constants.sizes)};
  }

  at::Tensor compute_logits(const HeadInput& input) const override {
    const auto layout = classes_.layout();
    const at::Tensor words = wide_linear_logits(input.hidden, {weight_->working});
    if (count_ == 1) return at::log_softmax(words, 1).index_select(1, layout->rows);
    const at::Tensor classes = at::log_softmax(wide_linear_logits(input.hidden, {class_weight_->working}), 1);
    const auto parts = words.split_with_sizes(layout->sizes, 1);
    const auto log_p = classes.split(1, 1);
    std::vector<at::Tensor> sorted;
    for (std::size_t index = 0; index < parts.size(); ++index)
      sorted.push_back(at::log_softmax(parts[index], 1) + log_p[index]);
    return at::cat(sorted, 1).index_select(1, layout->rows);
  }
  at::Tensor losses(const HeadInput& input, const at::Tensor& targets, Reduction reduction) const {
    const auto layout = classes_.layout();
    const ClassGroups groups = group_by_class(targets, *layout);
    const at::Tensor within = within_class_losses(input.hidden, weight_->working, *layout, groups, reduction);
    if (count_ == 1) return within;
    return within +
           linear_cross_entropy(input.hidden, {class_weight_->working}, groups.classes, {.reduction = reduction});
  }
  at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const override {
    return losses(input, targets, Reduction::kNone);
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions&,
                                     TokenStatistics*) const override {
    return {losses(input, targets, Reduction::kSum) / double(targets.size(0)), {}};
  }

  std::int64_t count_;
  WordClasses classes_;
  ParameterPtr weight_, class_weight_;
};

}  // namespace

HeadKind two_level_head() {
  return describe_head<TwoLevelHead, TwoLevelOptions>(
      "two_level", "p(x) = p(c | h) p(x | c, h), softmax over C classes, then over the words of the class",
      "(C + V / C) / V: 6 D (C + V / C) operations a token, as large as the linear head's in evaluation",
      "3 D numbers a token", "Goodman 2001, arXiv cs/0108006; Mikolov et al. 2011 (equal mass, square roots)");
}

}  // namespace lmhead
