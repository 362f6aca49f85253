// A mixture of softmaxes over one matrix: log p is no longer linear in anything of D dimensions.
#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <cmath>

#include "lmhead/heads/head_list.h"
#include "lmhead/heads/token_loss_head.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

struct MixtureOfSoftmaxesOptions : HeadOptions {
  std::int64_t components = 4;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("components", components, "K, how many softmaxes are mixed", between(1, 1 << 16));
  }
};

/// -log sum_k pi_k p_k(y) from the log pi_k among the further numbers. A component's share of the target's probability
/// is what its own loss weighs.
double mixture_loss(std::int64_t components, const TokenTerms& terms, const TokenSlopes& by) {
  const auto log_share = [&](std::int64_t k) { return terms.further[k] + terms.target_logit[k] - terms.logsumexp[k]; };
  double largest = log_share(0), sum = 0;
  for (std::int64_t k = 1; k < components; ++k) largest = std::max(largest, log_share(k));
  for (std::int64_t k = 0; k < components; ++k) sum += std::exp(log_share(k) - largest);
  const double log_p = largest + std::log(sum);
  for (std::int64_t k = 0; k < components; ++k) {
    by.logsumexp[k] = std::exp(log_share(k) - log_p);
    by.target_logit[k] = by.further[k] = -by.logsumexp[k];
  }
  return -log_p;
}

/// p = sum_k pi_k softmax(W f_k), f_k = tanh(U_k h), pi = softmax(A h). Of one component there is no A.
class MixtureOfSoftmaxesHead : public TokenLossHead {
 public:
  MixtureOfSoftmaxesHead(const MixtureOfSoftmaxesOptions& options, const HeadContext& context)
      : TokenLossHead(context.hidden_size, context.vocab_size), components_(options.components) {
    // For features of unit square mean U_k h is standard normal and E[tanh^2] = 0.394 (by quadrature): initial logits
    // of a component are then as large as the linear head's.
    constexpr double kTanhSquare = 0.39429449;
    const double width = double(context.hidden_size);
    weight_ = own_words(context, context.initializer_range / std::sqrt(kTanhSquare));
    latent_ =
        own(context.parameter("lm_head.latent_proj.weight", {components_ * context.hidden_size, context.hidden_size},
                              normal_initializer(1 / std::sqrt(width))));
    if (components_ > 1)
      prior_ = own(context.parameter("lm_head.prior_proj.weight", {components_, context.hidden_size},
                                     normal_initializer(context.initializer_range)));
  }

  double flops_per_token(std::int64_t) const override {
    const double width = double(hidden_size()), components = double(components_);
    return 6 * components * (double(vocab_size()) * width + width * width) + (prior_ ? 6 * components * width : 0);
  }
  double memory_per_token(std::int64_t) const override {
    return double(components_) * (3 * double(hidden_size()) + 4);  // f_k, its gradient and that of U_k h; scores
  }
  void check_loss(const LossOptions& options) const override {
    require_no_logit_terms(options, "mixture_of_softmaxes");
  }

 private:
  /// [M K, D], the components of a row one behind another.
  at::Tensor components(const HeadInput& input) const {
    return at::tanh(projection(input.hidden, latent_->working, {})).view({-1, hidden_size()});
  }
  /// log pi [M, K], float32 or wider.
  at::Tensor log_prior(const HeadInput& input) const {
    const at::Tensor scores = at::linear(input.hidden, prior_->working);
    return at::log_softmax(scores, 1, loss_type(scores.scalar_type()));
  }

  at::Tensor compute_logits(const HeadInput& input) const override {
    const at::Tensor features = components(input).view({-1, components_, hidden_size()});
    const at::Tensor prior = prior_ ? log_prior(input) : at::Tensor();
    at::Tensor log_p;
    for (std::int64_t component = 0; component < components_; ++component) {
      const at::Tensor logits = at::linear(features.select(1, component), weight_->working);
      at::Tensor own = at::log_softmax(logits, 1, loss_type(logits.scalar_type()));
      if (prior_) own = own + prior.narrow(1, component, 1);
      log_p = component == 0 ? own : at::logaddexp(log_p, own);
    }
    return log_p;
  }
  at::Tensor losses(const HeadInput& input, const at::Tensor& targets, Reduction reduction) const override {
    if (prior_) return TokenLossHead::losses(input, targets, reduction);
    return linear_cross_entropy(components(input), {weight_->working}, targets, {.reduction = reduction});
  }
  TokenLossProblem token_loss_problem(const HeadInput& input, const at::Tensor& targets) const override {
    return {components(input),
            {weight_->working},
            targets,
            log_prior(input),
            [count = components_](std::int64_t, const TokenTerms& terms, const TokenSlopes& by) {
              return mixture_loss(count, terms, by);
            }};
  }

  std::int64_t components_;
  ParameterPtr weight_, latent_, prior_;
};

}  // namespace

HeadKind mixture_of_softmaxes_head() {
  return describe_head<MixtureOfSoftmaxesHead, MixtureOfSoftmaxesOptions>(
      "mixture_of_softmaxes", "p = sum_k pi_k softmax(W tanh(U_k h)), pi = softmax(A h), U_k: D x D, A: K x D",
      "K: 6 K (V D + D^2 + D) operations a token", "3 K D numbers a token", "Yang et al. 2018, arXiv 1711.03953");
}

}  // namespace lmhead
