// Words of the context have a facet of their own: features that other words never see.
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/stack.h>

#include <cmath>
#include <utility>

#include "lmhead/heads/context.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct MultiFacetOptions : HeadOptions {
  std::optional<std::int64_t> width;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("width", width, "E, inner width of the facet h + B gelu(A h); null: hidden_size",
                  between(1, kMostHeadSize));
  }
};

constexpr double kNothing = -1e4;  // the logit of a word that is not there; exp of it is 0 in every type

/// log(e^lse + e^facet_lse) - z_y from the logsumexp over the context's words and, where the target is one of them, its
/// logit there among the further numbers; elsewhere that is NaN.
double facet_loss(const TokenTerms& terms, const TokenSlopes& by) {
  const double others = *terms.logsumexp, context = terms.further[0], of_target = terms.further[1];
  const double largest = std::max(others, context), smallest = std::min(others, context);
  const double whole = largest + std::log1p(std::exp(smallest - largest));
  *by.logsumexp = std::exp(others - whole);
  by.further[0] = std::exp(context - whole);
  const bool is_here = !std::isnan(of_target);
  *by.target_logit = is_here ? 0 : -1;
  by.further[1] = is_here ? -1 : 0;
  return whole - (is_here ? of_target : *terms.target_logit);
}

/// One softmax over z_x = w_x . f(h) for words of the context, which ends with the present one, and w_x . h for the
/// others. B begins at zero, so that the head begins as the linear one.
class MultiFacetHead : public TokenLossHead {
 public:
  MultiFacetHead(const MultiFacetOptions& options, const HeadContext& context)
      : TokenLossHead(context.hidden_size, context.vocab_size) {
    const std::int64_t width = context.hidden_size, inner = options.width.value_or(width);
    weight_ = own_words(context, context.initializer_range);
    up_ = own(context.parameter("lm_head.facet_up_proj.weight", {inner, width},
                                normal_initializer(1 / std::sqrt(double(width)))));
    down_ = own(context.parameter("lm_head.facet_down_proj.weight", {width, inner}, constant_initializer(0)));
  }

  HeadNeeds needs() const override { return {.tokens = true}; }
  double flops_per_token(std::int64_t sequence_length) const override {
    const double width = double(hidden_size()), inner = double(up_->value.size(0));
    return 6 * width * (double(vocab_size()) + 2 * inner + double(sequence_length));
  }
  double memory_per_token(std::int64_t sequence_length) const override {
    return 3 * double(sequence_length) + 3 * double(hidden_size());
  }
  void check_loss(const LossOptions& options) const override { require_no_logit_terms(options, "multi_facet"); }

 private:
  /// The pass with `count` of the rows asked for: whole sequences by themselves where it can be these, for they take
  /// one batched product.
  static HeadInput part_of(const HeadInput& input, std::int64_t first, std::int64_t count) {
    const std::int64_t length = input.tokens.size(1), begin = first / length, sequences = count / length;
    if (input.rows.defined() || begin * length != first || sequences * length != count)
      return input.narrow(first, count);
    HeadInput part = input;
    part.hidden = input.hidden.narrow(0, first, count);
    part.tokens = input.tokens.narrow(0, begin, sequences);
    if (input.documents.defined()) part.documents = input.documents.narrow(0, begin, sequences);
    return part;
  }
  /// The same of what stands for every sequence [B, ...].
  static at::Tensor of_part(const at::Tensor& all, const HeadInput& input, std::int64_t first) {
    return all.size(0) == input.tokens.size(0) ? all
                                               : all.narrow(0, first / input.tokens.size(1), input.tokens.size(0));
  }
  /// The logits [M, T] of the words at each position of a row's sequence, by the facet of the context; `hidden` is that
  /// of the rows asked for, `maps` are the rows of W of the words of the input [N, D], A and B.
  static at::Tensor facet_logits(const HeadInput& input, const at::Tensor& hidden, const MadeRows::Tensors& maps) {
    const at::Tensor facet = hidden + projection(at::gelu(projection(hidden, maps[1], {})), maps[2], {});
    return widened(context_products(input, facet, maps[0]));
  }
  /// Positions [M, T] that add no word to what a row sees.
  static at::Tensor unused_positions(const HeadInput& input, const at::Tensor& repeats) {
    const at::Tensor sequence = input.rows.defined() ? input.rows.floor_divide(input.tokens.size(1)) : at::Tensor();
    return unseen_positions(input).logical_or_(sequence.defined() ? repeats.index_select(0, sequence)
                                                                  : repeats.repeat_interleave(input.tokens.size(1), 0));
  }

  at::Tensor compute_logits(const HeadInput& input) const override {
    const at::Tensor hidden = input.select(input.hidden), logits = widened(at::linear(hidden, weight_->working));
    const at::Tensor tokens = tokens_of_rows(input),
                     words = at::embedding(weight_->working, input.tokens.reshape({-1}));
    const at::Tensor change =
        (facet_logits(input, hidden, {words, up_->working, down_->working}) - logits.gather(1, tokens))
            .masked_fill(unused_positions(input, context_words(input).repeats), 0);
    return logits.scatter_add(1, tokens, change);
  }
  TokenLossProblem token_loss_problem(const HeadInput& input, const at::Tensor& targets) const override {
    ContextWords context = context_words(input);
    // N x T numbers stand together for a block of tokens alone.
    const auto make = [input, repeats = context.repeats, targets](std::int64_t first, std::int64_t count,
                                                                  const MadeRows::Tensors& of_tokens,
                                                                  const MadeRows::Tensors& maps) {
      const HeadInput part = part_of(input, first, count);
      const at::Tensor unused = unused_positions(part, of_part(repeats, part, first)),
                       logits = facet_logits(
                           part, of_tokens[0],
                           {part.rows.defined() ? maps[0] : maps[0].narrow(0, first, count), maps[1], maps[2]});
      const at::Tensor of_words = at::logsumexp(logits.masked_fill(unused, kNothing), 1);
      const at::Tensor is_other =
          tokens_of_rows(part).ne(targets.narrow(0, first, count).unsqueeze(1)).logical_or_(unused);
      const at::Tensor of_target = logits.masked_fill(is_other, 0).sum(1).masked_fill(is_other.all(1), NAN);
      return MadeRows::Block{{of_tokens[0]}, at::stack({of_words, of_target}, 1)};
    };
    return {.map = {weight_->working},
            .targets = targets,
            .loss = [](std::int64_t, const TokenTerms& terms, const TokenSlopes& by) { return facet_loss(terms, by); },
            .absent_begin = std::move(context.begin),
            .absent = std::move(context.words),
            .made = {.by_token = {input.select(input.hidden)},
                     .shared = {up_->working, down_->working},
                     .make = make,
                     .further_count = 2,
                     .map_rows = input.tokens.reshape({-1})}};
  }

  ParameterPtr weight_, up_, down_;
};

}  // namespace

HeadKind multi_facet_head() {
  return describe_head<MultiFacetHead, MultiFacetOptions>(
      "multi_facet",
      "z_x = w_x . (h + B gelu(A h)) for words of the context, w_x . h for the others; W: V x D, A: E x D, B: D x E",
      "1 + (2 E + T) / V: 6 D (V + 2 E + T) operations a token",
      "3 T + 3 D numbers a token; products with the context stand together for 512 tokens",
      "Chang & McCallum 2022; Chang et al. 2023 (context partition), arXiv 2305.12289");
}

}  // namespace lmhead
