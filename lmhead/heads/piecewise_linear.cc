// The linear head under a learned increasing map of its logits, which is linear between knots.
#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>

#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/kernels/linear_pieces.h"

namespace lmhead {
namespace {

struct PiecewiseLinearOptions : HeadOptions {
  std::int64_t pieces = 8;
  double range = 12;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("pieces", pieces, "K, of the map; even, so that one knot lies at 0", between(2, LinearPieces::kMost));
    visitor.field("range", range,
                  "R: knots lie evenly between -R and R; the outermost pieces go on beyond, where nothing bends",
                  above(0));
  }
};

/// log p = f(z) - lse(f(z)), f increasing with f(0) = 0, of slope e^(a_j) in piece j. Logarithms of slopes are what is
/// trained, so that every slope stays positive; they begin at 0, where the head is the linear one.
class PiecewiseLinearHead : public TokenLossHead {
 public:
  PiecewiseLinearHead(const PiecewiseLinearOptions& options, const HeadContext& context)
      : TokenLossHead(context.hidden_size, context.vocab_size),
        pieces_(options.pieces),
        step_(2 * options.range / double(options.pieces)) {
    require(pieces_ % 2 == 0, "piecewise_linear", "pieces must be even, got ", pieces_);
    weight_ = own_words(context, context.initializer_range);
    log_slopes_ =
        own(context.parameter("lm_head.log_slopes", {pieces_}, constant_initializer(0), ParameterKind::kVector));
  }

  double flops_per_token(std::int64_t) const override { return 6 * double(vocab_size()) * double(hidden_size()); }
  void check_loss(const LossOptions& options) const override { require_no_logit_terms(options, "piecewise_linear"); }

 private:
  at::Tensor compute_logits(const HeadInput& input) const override {
    const at::Tensor z = wide_linear_logits(input.hidden, {weight_->working});
    const at::Tensor slopes = at::exp(log_slopes_->working).to(z.scalar_type());
    constexpr double kEnd = std::numeric_limits<double>::infinity();
    at::Tensor sum;
    for (std::int64_t piece = 0; piece < pieces_; ++piece) {
      const double low = double(piece - pieces_ / 2) * step_, high = low + step_, origin = low < 0 ? high : low;
      const at::Tensor share = z.clamp(piece == 0 ? -kEnd : low, piece + 1 == pieces_ ? kEnd : high) - origin;
      sum = sum.defined() ? sum + slopes[piece] * share : slopes[piece] * share;
    }
    return sum.to(input.hidden.scalar_type());
  }
  TokenLossProblem token_loss_problem(const HeadInput& input, const at::Tensor& targets) const override {
    return {.hidden = input.hidden,
            .map = {weight_->working},
            .targets = targets,
            .further = at::empty({targets.size(0), 0}, log_slopes_->value.options().requires_grad(false)),
            .loss =
                [](std::int64_t, const TokenTerms& terms, const TokenSlopes& by) {
                  *by.logsumexp = 1, *by.target_logit = -1;
                  return *terms.logsumexp - *terms.target_logit;
                },
            .slopes = at::exp(log_slopes_->working),
            .knot_step = step_};
  }

  std::int64_t pieces_;
  double step_;
  ParameterPtr weight_, log_slopes_;
};

}  // namespace

HeadKind piecewise_linear_head() {
  return describe_head<PiecewiseLinearHead, PiecewiseLinearOptions>(
      "piecewise_linear", "p is proportional to e^f(W h), f: increasing, linear in K pieces whose slopes are trained",
      "1: 6 V D operations a token, and some 10 K a logit", "D numbers a token", "Ganea et al. 2019, arXiv 1902.08077");
}

}  // namespace lmhead
