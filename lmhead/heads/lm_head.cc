#include "lmhead/heads/lm_head.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

void LossOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("z_loss", z_loss, "adds z_loss * logsumexp(logits)^2 to every token's loss", at_least(0));
  visitor.field("label_smoothing", label_smoothing, "share of the target's probability spread over all classes",
                between(0, 1));
}

ParameterPtr LmHead::own(ParameterPtr parameter) {
  parameters_.push_back(parameter);
  return parameter;
}

void LmHead::check(const HeadInput& input) const {
  require(input.hidden.defined() && input.hidden.dim() == 2 && input.hidden.size(1) == hidden_size_, "head",
          "hidden must be [N, ", hidden_size_, "], got ",
          input.hidden.defined() ? input.hidden.sizes() : at::IntArrayRef{});
  require(at::isFloatingType(input.hidden.scalar_type()), "head", "hidden must be of a floating type, got ",
          input.hidden.scalar_type());
}

at::Tensor LmHead::logits(const HeadInput& input) const {
  check(input);
  return compute_logits(input);
}

at::Tensor LmHead::loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                        TokenStatistics* statistics) const {
  check(input);
  require(targets.defined() && targets.dim() == 1 && targets.size(0) == input.hidden.size(0) &&
              targets.scalar_type() == at::kLong,
          "head", "targets must be int64 [", input.hidden.size(0), "], got ", targets.scalar_type(), " ",
          targets.defined() ? targets.sizes() : at::IntArrayRef{});
  return compute_loss(input, targets, options, statistics);
}

TokenScores LmHead::token_scores(const HeadInput& input, const at::Tensor& targets) const {
  check(input);
  at::NoGradGuard no_grad;
  return compute_token_scores(input, targets);
}

TokenScores LmHead::compute_token_scores(const HeadInput& input, const at::Tensor& targets) const {
  const at::Tensor logits = compute_logits(input);
  const at::Tensor log_p = at::log_softmax(logits, 1, logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return {log_p.gather(1, targets.unsqueeze(1)).squeeze(1), logits.argmax(1).eq(targets)};
}

at::Tensor LmHead::compute_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                TokenStatistics*) const {
  return plain_cross_entropy(compute_logits(input), targets,
                             {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss});
}

}  // namespace lmhead
