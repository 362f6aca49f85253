// A mixture of the linear head and a pointer into the context, gated by one more row of the head's matrix.
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "lmhead/heads/context.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/kernels/block_operations.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct CopyOptions : HeadOptions {
  std::int64_t width = 32;
  std::string gate = "slot";
  std::optional<std::int64_t> band;
  bool detached = false;
  double logit_softcap = 0;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("width", width, "d, of queries and keys", between(1, kMostHeadSize));
    visitor.field("gate", gate,
                  "alpha: slot is the softmax mass of one further row of W under the same soft-cap, sigmoid is "
                  "sigma(u . h)",
                  {"slot", "sigmoid"});
    visitor.field("band", band, "tokens that the pointer sees, the present one included; null: the whole document",
                  between(1, kMostHeadSize));
    visitor.field("detached", detached, "the pointer's gradient ends before the body; the gate's does not");
    visitor.field("logit_softcap", logit_softcap, "c of c tanh(z / c) on words and slot; 0: none", at_least(0));
  }
};

constexpr double kNothing = -1e4;  // the logarithm of a mass that is not there; exp of it is 0 in every type

double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
double log_sum(double a, double b) { return std::max(a, b) + std::log1p(std::exp(-std::abs(a - b))); }

/// -log p(y) from the gate's logit, log a_sink and log p_copy(y) (without the sink's share) among the further numbers.
double copy_loss(bool has_slot, const TokenTerms& terms, const TokenSlopes& by) {
  const double gate = terms.further[0], log_sink = terms.further[1], log_copy = terms.further[2];
  const double odds = has_slot ? gate - *terms.logsumexp : gate;
  const double log_alpha = log_sigmoid(odds), log_rest = log_sigmoid(-odds), alpha = std::exp(log_alpha);
  const double log_kept = log_sum(log_rest, log_alpha + log_sink);  // log(1 - alpha (1 - a_sink))
  const double word = log_kept + *terms.target_logit - *terms.logsumexp, copied = log_alpha + log_copy;
  const double log_p = log_sum(word, copied);
  const double of_word = -std::exp(word - log_p), of_copied = -std::exp(copied - log_p);
  const double from_sink = std::exp(log_alpha + log_sink - log_kept);
  const double of_odds = of_word * (from_sink * (1 - alpha) - (1 - from_sink) * alpha) + of_copied * (1 - alpha);
  by.further[0] = of_odds, by.further[1] = of_word * from_sink, by.further[2] = of_copied;
  *by.target_logit = of_word;
  *by.logsumexp = -of_word - (has_slot ? of_odds : 0);
  return -log_p;
}

/// What the pointer makes of the rows asked for.
struct Pointer {
  at::Tensor scores;    // [M, T], kNothing where a position is not seen
  at::Tensor total;     // [M] their logsumexp and the sink's
  at::Tensor log_sink;  // [M] log a_sink
};

/// p(y) = p_lm(y) (1 - alpha (1 - a_sink)) + alpha p_copy(y), p_copy(y) = sum_(s <= t, x_s = y) a_ts: the token at the
/// place pointed at is copied, the present one included, for the target stands one place later.
class CopyHead : public TokenLossHead {
 public:
  CopyHead(const CopyOptions& options, const HeadContext& context)
      : TokenLossHead(context.hidden_size, context.vocab_size), options_(options), has_slot_(options.gate == "slot") {
    const Initializer like_words = normal_initializer(context.initializer_range);
    const Initializer unit = normal_initializer(1 / std::sqrt(double(context.hidden_size)));
    weight_ = own_words(context, context.initializer_range);
    gate_ = own(context.parameter("lm_head.copy_gate.weight", {1, context.hidden_size}, like_words));
    query_ = own(context.parameter("lm_head.copy_query.weight", {options.width, context.hidden_size}, unit));
    key_ = own(context.parameter("lm_head.copy_key.weight", {options.width, context.hidden_size}, unit));
    gain_ = own(context.parameter("lm_head.copy_query_norm.weight", {options.width}, constant_initializer(1),
                                  ParameterKind::kVector));
    sink_ =
        own(context.parameter("lm_head.copy_sink", {options.width}, constant_initializer(0), ParameterKind::kVector));
  }

  HeadNeeds needs() const override { return {.tokens = true}; }
  double flops_per_token(std::int64_t sequence_length) const override {
    const double width = double(hidden_size()), narrow = double(options_.width);
    return 6 * (double(vocab_size() + 1) * width + 2 * narrow * width + double(sequence_length) * narrow);
  }
  double memory_per_token(std::int64_t sequence_length) const override {
    return 6 * double(sequence_length) + 6 * double(options_.width) + double(hidden_size());
  }
  void check_loss(const LossOptions& options) const override { require_no_logit_terms(options, "copy"); }

 private:
  LinearMap working_map() const {
    LinearMap map{weight_->working};
    map.transform.softcap = options_.logit_softcap;
    return map;
  }
  /// The slot's logit, or u . h: [M].
  at::Tensor gate_logit(const at::Tensor& hidden) const {
    const at::Tensor z = widened(at::linear(hidden, gate_->working)).squeeze(1);
    const double cap = options_.logit_softcap;
    return has_slot_ && cap > 0 ? cap * at::tanh(z / cap) : z;
  }

  Pointer point(const HeadInput& input) const {
    constexpr double kEps = 1e-6;
    const at::Tensor hidden = options_.detached ? input.hidden.detach() : input.hidden;
    // The score's 1 / sqrt(d) stands in the gain.
    const at::Tensor gain = gain_->working / std::sqrt(double(options_.width));
    const at::Tensor keys = widened(projection(hidden, key_->working, {}));
    const at::Tensor queries =
        rms_norm(widened(projection(input.select(hidden), query_->working, {})), gain, kEps, keys.scalar_type());
    const at::Tensor scores =
        context_products(input, queries, rms_norm(keys, at::ones_like(gain), kEps, keys.scalar_type()))
            .masked_fill(unseen_positions(input, options_.band), kNothing);
    const at::Tensor sink = at::mv(queries, sink_->working);
    const at::Tensor total = at::logaddexp(at::logsumexp(scores, 1), sink);
    return {scores, total, sink - total};
  }

  at::Tensor compute_logits(const HeadInput& input) const override {
    const at::Tensor hidden = input.select(input.hidden), logits = widened(linear_logits(hidden, working_map()));
    const at::Tensor lse = at::logsumexp(logits, 1), gate = gate_logit(hidden), odds = has_slot_ ? gate - lse : gate;
    const at::Tensor log_alpha = at::log_sigmoid(odds), log_rest = at::log_sigmoid(-odds);
    const Pointer pointer = point(input);
    const at::Tensor words =
        logits - lse.unsqueeze(1) + at::logaddexp(log_rest, log_alpha + pointer.log_sink).unsqueeze(1);
    const at::Tensor mass = (pointer.scores - pointer.total.unsqueeze(1)).exp();
    const at::Tensor copied = at::zeros_like(words).scatter_add(1, tokens_of_rows(input), mass);
    constexpr double kSmallest = 1e-37;  // of a mass in float32; what is below is not worth a logarithm
    const at::Tensor is_nothing = copied.lt(kSmallest);
    return at::logaddexp(words,
                         log_alpha.unsqueeze(1) + copied.clamp_min(kSmallest).log().masked_fill(is_nothing, kNothing));
  }
  /// Which word is likeliest is told by probabilities, a block of rows at a time.
  TokenScores compute_token_scores(const HeadInput& input, const at::Tensor& targets) const override {
    constexpr std::int64_t kBlock = std::int64_t(1) << 21;
    const at::Tensor hidden = input.select(input.hidden), gate = gate_logit(hidden), tokens = tokens_of_rows(input);
    const Pointer pointer = point(input);
    const std::int64_t count = targets.size(0), step = std::max<std::int64_t>(1, kBlock / vocab_size());
    std::vector<at::Tensor> correct = {targets.narrow(0, 0, 0).eq(0)};
    for (std::int64_t first = 0; first < count; first += step) {
      const auto block = [&](const at::Tensor& all) { return all.narrow(0, first, std::min(step, count - first)); };
      const at::Tensor logits = widened(linear_logits(block(hidden), working_map())), lse = at::logsumexp(logits, 1);
      const at::Tensor odds = has_slot_ ? block(gate) - lse : block(gate), log_alpha = at::log_sigmoid(odds);
      const at::Tensor kept = at::logaddexp(at::log_sigmoid(-odds), log_alpha + block(pointer.log_sink));
      const at::Tensor p = (logits + (kept - lse).unsqueeze(1)).exp_();
      p.scatter_add_(1, block(tokens),
                     (block(pointer.scores) + (log_alpha - block(pointer.total)).unsqueeze(1)).exp_());
      correct.push_back(p.argmax(1).eq(block(targets)));
    }
    return {-compute_token_losses(input, targets), at::cat(correct)};
  }
  TokenLossProblem token_loss_problem(const HeadInput& input, const at::Tensor& targets) const override {
    const at::Tensor hidden = input.select(input.hidden);
    const Pointer pointer = point(input);
    const at::Tensor is_other = tokens_of_rows(input).ne(targets.unsqueeze(1));
    const at::Tensor log_copy = at::logsumexp(pointer.scores.masked_fill(is_other, kNothing), 1) - pointer.total;
    return {hidden, working_map(), targets, at::stack({gate_logit(hidden), pointer.log_sink, log_copy}, 1),
            [has_slot = has_slot_](std::int64_t, const TokenTerms& terms, const TokenSlopes& by) {
              return copy_loss(has_slot, terms, by);
            }};
  }

  CopyOptions options_;
  bool has_slot_;
  ParameterPtr weight_, gate_, query_, key_, gain_, sink_;
};

}  // namespace

HeadKind copy_head() {
  return describe_head<CopyHead, CopyOptions>(
      "copy",
      "p(y) = p_lm(y) (1 - alpha (1 - a_sink)) + alpha sum_(s <= t, x_s = y) a_ts, a = softmax over a sink and "
      "positions",
      "1 + (2 d D + T d) / (V D): 6 (V D + 2 d D + T d) operations a token", "6 T + 6 d + D numbers a token",
      "Godey 2026, modded-nanogpt pull request 379 (the slot); Merity et al. 2016, arXiv 1609.07843 (the sigmoid)");
}

}  // namespace lmhead
