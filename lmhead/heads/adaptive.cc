// Frequent words and one class a tail in the first softmax; rare words behind a narrower one each tail.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/word_classes.h"
#include "lmhead/heads/word_partition.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct AdaptiveOptions : HeadOptions {
  std::vector<std::int64_t> cutoffs;
  double width_divisor = 4;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("cutoffs", cutoffs,
                  "ranks by falling count in the training data at which tails begin; empty: vocab_size / 16 and / 4, "
                  "rounded up",
                  between(1, kMostHeadSize));
    visitor.field("width_divisor", width_divisor, "tail i, counted from 1, sees features of width D over this to the i",
                  at_least(1));
  }
};

/// How many words are in the first softmax and in each tail.
std::vector<std::int64_t> sizes_of(const AdaptiveOptions& options, std::int64_t vocab_size) {
  std::vector<std::int64_t> ends = options.cutoffs;
  if (ends.empty())
    for (const std::int64_t share : {16, 4}) {
      const std::int64_t end = (vocab_size + share - 1) / share;
      if (end < vocab_size && (ends.empty() || ends.back() < end)) ends.push_back(end);
    }
  ends.push_back(vocab_size);
  std::vector<std::int64_t> sizes;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    require(end > begin && end <= vocab_size && (end < vocab_size || sizes.size() + 1 == ends.size()), "adaptive",
            "cutoffs must rise and lie between 1 and ", vocab_size - 1, ", got ", at::IntArrayRef(options.cutoffs));
    sizes.push_back(end - begin);
    begin = end;
  }
  return sizes;
}

/// log p(x) = log p(x | h) for frequent x, else log p(tail | h) + log softmax(U_i B_i h)[x]. A tail of one word has no
/// matrices.
class AdaptiveHead : public LmHead {
 public:
  AdaptiveHead(const AdaptiveOptions& options, const HeadContext& context)
      : LmHead(context.hidden_size, context.vocab_size),
        sizes_(sizes_of(options, context.vocab_size)),
        classes_(own_classes(context)) {
    const double width = double(context.hidden_size);
    const auto tails = std::int64_t(sizes_.size()) - 1;
    first_ = own(context.parameter("lm_head.head_proj.weight", {sizes_[0] + tails, context.hidden_size},
                                   normal_initializer(context.initializer_range)));
    for (std::int64_t index = 1; index <= tails; ++index) {
      Tail tail;
      if (const std::int64_t words = sizes_[std::size_t(index)]; words > 1) {
        const auto inner =
            std::max<std::int64_t>(1, std::int64_t(width / std::pow(options.width_divisor, double(index))));
        const std::string name = "lm_head.tails." + std::to_string(index - 1);
        tail.down = own(context.parameter(name + ".down_proj.weight", {inner, context.hidden_size},
                                          normal_initializer(1 / std::sqrt(width))));
        // Initial logits are as large as the linear head's, whatever the width.
        tail.up =
            own(context.parameter(name + ".up_proj.weight", {words, inner},
                                  normal_initializer(context.initializer_range * std::sqrt(width / double(inner)))));
      }
      tails_.push_back(std::move(tail));
    }
  }

  double flops_per_token(std::int64_t) const override {
    double numbers = double(first_->value.numel()), begin = double(sizes_[0]);
    constexpr double kEuler = 0.5772156649;
    for (std::size_t index = 0; index < tails_.size(); ++index) {
      const double end = begin + double(sizes_[index + 1]);
      // The share of tokens in a tail, by Zipf's law.
      const double share = std::log(end / begin) / (std::log(double(vocab_size())) + kEuler);
      if (const Tail& tail = tails_[index]; tail.up)
        numbers += share * double(tail.down->value.numel() + tail.up->value.numel());
      begin = end;
    }
    return 6 * numbers;
  }
  double memory_per_token(std::int64_t) const override { return 4 * double(hidden_size()) + 8; }
  void check_loss(const LossOptions& options) const override { require_no_logit_terms(options, "adaptive"); }

 private:
  struct Tail {
    ParameterPtr down, up;  // B [w, D], U [words, w]; null for one word
  };

  WordClasses own_classes(const HeadContext& context) {
    require(!context.tied_embedding, "adaptive",
            "adaptive must have model.tie_word_embeddings = false, got true: rare words have narrower vectors");
    const auto constants = partition_constants(context, std::int64_t(sizes_.size()), [sizes = sizes_, context] {
      return WordPartition{order_by_count(counts_of(context)), sizes};
    });
    return {own(constants.order), own(constants.sizes)};
  }

  at::Tensor compute_logits(const HeadInput& input) const override {
    const auto layout = classes_.layout();
    const at::Tensor first = at::log_softmax(wide_linear_logits(input.hidden, {first_->working}), 1);
    std::vector<at::Tensor> sorted = {first.narrow(1, 0, sizes_[0])};
    for (std::size_t index = 0; index < tails_.size(); ++index) {
      const Tail& tail = tails_[index];
      at::Tensor log_p = first.narrow(1, sizes_[0] + std::int64_t(index), 1);
      if (tail.up)
        log_p =
            log_p + at::log_softmax(
                        wide_linear_logits(projection(input.hidden, tail.down->working, {}), {tail.up->working}), 1);
      sorted.push_back(log_p);
    }
    return at::cat(sorted, 1).index_select(1, layout->rows);
  }
  at::Tensor losses(const HeadInput& input, const at::Tensor& targets, Reduction reduction) const {
    const auto layout = classes_.layout();
    const ClassGroups groups = group_by_class(targets, *layout);
    const at::Tensor rows = layout->rows.index_select(0, targets);
    const at::Tensor of_first = at::where(groups.classes.eq(0), rows, groups.classes + (sizes_[0] - 1));
    at::Tensor losses = linear_cross_entropy(input.hidden, {first_->working}, of_first, {.reduction = reduction});
    std::size_t next = 0;
    for (std::size_t index = 0; index < tails_.size(); ++index) {
      const Tail& tail = tails_[index];
      while (next < groups.groups.size() && groups.groups[next].index < std::int64_t(index) + 1) ++next;
      const bool has_tokens = next < groups.groups.size() && groups.groups[next].index == std::int64_t(index) + 1;
      if (!tail.up) continue;
      if (!has_tokens) {
        losses = losses + (no_part_of(tail.down->working) + no_part_of(tail.up->working)).to(losses.options());
        continue;
      }
      const auto& group = groups.groups[next];
      const at::Tensor tokens = groups.order.narrow(0, group.first, group.count);
      const at::Tensor inner = projection(input.hidden.index_select(0, tokens), tail.down->working, {});
      const at::Tensor own = linear_cross_entropy(
          inner, {tail.up->working}, groups.within.narrow(0, group.first, group.count), {.reduction = reduction});
      losses = reduction == Reduction::kNone ? losses.index_add(0, tokens, own) : losses + own;
    }
    return losses;
  }
  at::Tensor compute_token_losses(const HeadInput& input, const at::Tensor& targets) const override {
    return losses(input, targets, Reduction::kNone);
  }
  TrainingLoss compute_training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions&,
                                     TokenStatistics*) const override {
    return {losses(input, targets, Reduction::kSum) / double(targets.size(0)), {}};
  }

  std::vector<std::int64_t> sizes_;  // of the first softmax's words and of each tail's
  WordClasses classes_;
  ParameterPtr first_;
  std::vector<Tail> tails_;
};

}  // namespace

HeadKind adaptive_head() {
  return describe_head<AdaptiveHead, AdaptiveOptions>(
      "adaptive",
      "log p(x) = log softmax(W h)[x] for frequent words, log softmax(W h)[tail i] + log softmax(U_i B_i h)[x] for "
      "others; "
      "B_i: D / 4^i x D",
      "6 D (words of the first softmax + tails) operations a token, and 6 (D / 4^i) (D + words of tail i) a token of "
      "tail "
      "i, whose share Zipf's law is taken to give",
      "4 D numbers a token", "Grave et al. 2017, arXiv 1609.04309; equal to torch.nn.AdaptiveLogSoftmaxWithLoss");
}

}  // namespace lmhead
