#include "lmhead/heads/lm_head.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

/// 8 MiB of float32: what is larger is new pages from the system for every intermediate result.
constexpr std::int64_t kBlockLogits = std::int64_t(1) << 21;

at::IntArrayRef sizes_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.sizes() : at::IntArrayRef{}; }

at::Tensor log_softmax_of(const at::Tensor& logits) {
  return at::log_softmax(logits, 1, logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

HeadInput rows_alone(const HeadInput& input) {
  HeadInput rows{.hidden = input.select(input.hidden), .batch_targets = input.batch_targets, .step = input.step};
  for (const at::Tensor& layer : input.layers) rows.layers.push_back(input.select(layer));
  return rows;
}

}  // namespace

void LossOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("z_loss", z_loss, "adds z_loss * logsumexp(logits)^2 to every token's loss", at_least(0));
  visitor.field("label_smoothing", label_smoothing, "share of the target's probability spread over all classes",
                between(0, 1));
}

ParameterPtr LmHead::own(ParameterPtr parameter) {
  parameters_.push_back(parameter);
  return parameter;
}

ParameterPtr LmHead::own_words(const HeadContext& context, double deviation) {
  if (context.tied_embedding) return context.tied_embedding;
  return own(
      context.parameter("lm_head.weight", {context.vocab_size, context.hidden_size}, normal_initializer(deviation)));
}

ParameterPtr LmHead::if_own(const ParameterPtr& parameter) const {
  return std::ranges::find(parameters_, parameter) == parameters_.end() ? nullptr : parameter;
}

HeadInput LmHead::checked(const HeadInput& input) const {
  require(input.hidden.defined() && input.hidden.dim() == 2 && input.hidden.size(1) == hidden_size_, "head",
          "hidden must be [N, ", hidden_size_, "], got ", sizes_of(input.hidden));
  require(at::isFloatingType(input.hidden.scalar_type()), "head", "hidden must be of a floating type, got ",
          input.hidden.scalar_type());
  const std::int64_t count = input.hidden.size(0);
  const HeadNeeds needs = this->needs();
  const auto is_per_token = [&](const at::Tensor& tensor) {
    return tensor.dim() == 2 && tensor.numel() == count && tensor.scalar_type() == at::kLong;
  };
  require(!needs.tokens || (input.tokens.defined() && is_per_token(input.tokens)), "head",
          "tokens must be int64 [B, T] with B T = ", count, " for this head, got ", sizes_of(input.tokens));
  require(!input.documents.defined() || (is_per_token(input.documents)), "head",
          "documents must be int64 [B, T] with B T = ", count, ", got ", sizes_of(input.documents));
  require(input.layers.size() == needs.layers.size(), "head", "layers must be those of ", needs.layers.size(),
          " blocks for this head, got ", input.layers.size());
  for (const at::Tensor& layer : input.layers)
    require(layer.defined() && layer.sizes() == input.hidden.sizes(), "head", "layers must be ", input.hidden.sizes(),
            " as hidden is, got ", sizes_of(layer));
  require(!input.rows.defined() || (input.rows.dim() == 1 && input.rows.scalar_type() == at::kLong), "head",
          "rows must be int64 [M], got ", sizes_of(input.rows));
  return needs.tokens ? input : rows_alone(input);
}

HeadInput LmHead::checked(const HeadInput& input, const at::Tensor& targets) const {
  HeadInput rows = checked(input);
  require(
      targets.defined() && targets.dim() == 1 && targets.size(0) == rows.asked() && targets.scalar_type() == at::kLong,
      "head", "targets must be int64 [", rows.asked(), "], got ", targets.scalar_type(), " ", sizes_of(targets));
  return rows;
}

at::Tensor LmHead::logits(const HeadInput& input) const { return compute_logits(checked(input)); }

at::Tensor LmHead::log_probabilities(const HeadInput& input) const { return log_softmax_of(logits(input)); }

at::Tensor LmHead::token_losses(const HeadInput& input, const at::Tensor& targets) const {
  return compute_token_losses(checked(input, targets), targets);
}

TrainingLoss LmHead::training_loss(const HeadInput& input, const at::Tensor& targets, const LossOptions& options,
                                   TokenStatistics* statistics) const {
  const HeadInput rows = checked(input, targets);
  const HeadNeeds needs = this->needs();
  require(!needs.random || input.step.step >= 1, "head",
          "the step of training must be given to a head that draws, got none");
  require(needs.targets_ahead == 0 || !input.rows.defined(), "head",
          "a head that looks at further targets must be trained on every row, got a choice of ", input.asked());
  check_loss(options);
  return compute_training_loss(rows, targets, options, statistics);
}

TokenScores LmHead::token_scores(const HeadInput& input, const at::Tensor& targets) const {
  const HeadInput rows = checked(input, targets);
  at::NoGradGuard no_grad;
  return compute_token_scores(rows, targets);
}

TokenScores LmHead::compute_token_scores(const HeadInput& input, const at::Tensor& targets) const {
  const std::int64_t count = targets.size(0), step = std::max<std::int64_t>(1, kBlockLogits / vocab_size_);
  const bool is_whole = count <= step;
  std::vector<at::Tensor> log_probabilities, correct;
  for (std::int64_t first = 0; first == 0 || first < count; first += step) {
    const std::int64_t rows = std::min(step, count - first);
    HeadInput block = is_whole ? input : input.narrow(first, rows);
    if (!needs().tokens && !is_whole) block = rows_alone(block);
    const at::Tensor logits = compute_logits(block), target = targets.narrow(0, first, rows);
    log_probabilities.push_back(log_softmax_of(logits).gather(1, target.unsqueeze(1)).squeeze(1));
    correct.push_back(logits.argmax(1).eq(target));
  }
  return {is_whole ? log_probabilities[0] : at::cat(log_probabilities), is_whole ? correct[0] : at::cat(correct)};
}

at::Tensor LmHead::compute_token_losses(const HeadInput& input, const at::Tensor& targets) const {
  return plain_cross_entropy(compute_logits(input), targets, {.reduction = Reduction::kNone});
}

TrainingLoss LmHead::compute_training_loss(const HeadInput& input, const at::Tensor& targets,
                                           const LossOptions& options, TokenStatistics*) const {
  return {plain_cross_entropy(compute_logits(input), targets,
                              {.label_smoothing = options.label_smoothing, .z_loss = options.z_loss}),
          {}};
}

double LmHead::flops_per_token(std::int64_t) const {
  double numbers = 0;
  for (const ParameterPtr& parameter : parameters_)
    if (parameter->value.dim() >= 2 && parameter->kind != ParameterKind::kEmbedding &&
        parameter->kind != ParameterKind::kConstant)
      numbers += double(parameter->value.numel());
  return 6 * numbers;
}

}  // namespace lmhead
