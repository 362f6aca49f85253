#include "lmhead/train/validation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "lmhead/base/device.h"
#include "lmhead/train/batch_feed.h"

namespace lmhead {
namespace {

/// Totals in float64 over groups of tokens.
class ScoreSums {
 public:
  ScoreSums(std::int64_t groups, c10::Device device)
      : sums_(at::zeros({groups, 3}, at::TensorOptions(device).dtype(at::kDouble))) {}

  /// Adds each token to the group that `group` [n] int64 names.
  void add(const TokenScores& scores, const at::Tensor& group) {
    const at::Tensor loss = -scores.log_probability.to(at::kDouble);
    sums_.index_add_(0, group, at::stack({loss, scores.correct.to(at::kDouble), at::ones_like(loss)}, 1));
  }
  void sum_over(const Processes& processes) { sums_ = processes.sum(sums_); }
  /// Group `index`, or all groups together.
  GroupScores scores(std::int64_t index) const { return scores_of(sums_[index].cpu()); }
  GroupScores all() const { return scores_of(sums_.sum(0).cpu()); }

 private:
  static GroupScores scores_of(const at::Tensor& sums) {
    const double* sum = sums.const_data_ptr<double>();
    if (sum[2] == 0) return {};
    return {std::int64_t(sum[2]), sum[0] / sum[2], sum[1] / sum[2]};
  }
  at::Tensor sums_;  // of losses, correct predictions, tokens
};

/// What a process without tokens does while others, which need its words, score theirs.
void score_nothing(const CausalModel& model) {
  model.decoder.look_up_nothing();
  const at::Tensor& like = model.decoder.embedding()->working;  // of the type of features
  const at::Tensor hidden = at::zeros({0, model.head->hidden_size()}, like.options().requires_grad(false));
  model.head->token_scores({.hidden = hidden}, at::zeros({0}, hidden.options().dtype(at::kLong)));
}

Json to_json(const CoverageScores& scores) {
  const auto or_null = [](const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); };
  return {{"draws_per_symbol", scores.draws_per_symbol},
          {"share_seen", scores.share_seen},
          {"seen_accuracy", or_null(scores.seen.top1_accuracy)},
          {"unseen_accuracy", or_null(scores.unseen.top1_accuracy)},
          {"seen_loss", or_null(scores.seen.loss)},
          {"unseen_loss", or_null(scores.unseen.loss)}};
}

}  // namespace

Json to_json(const Validation& v) {
  Json json = {{"loss", v.loss},
               {"perplexity", std::exp(v.loss)},
               {"bits_per_byte", v.bits_per_byte ? Json(*v.bits_per_byte) : Json(nullptr)},
               {"top1_accuracy", v.top1_accuracy},
               {"tokens", v.tokens}};
  if (v.coverage) json["coverage"] = to_json(*v.coverage);
  for (const auto& [name, scores] : v.by_frequency)
    json["by_frequency"][name] = {
        {"loss", *scores.loss}, {"top1_accuracy", *scores.top1_accuracy}, {"tokens", scores.tokens}};
  return json;
}

Validation validate(const CausalModel& model, const BatchSource& batches, const std::optional<FrequencyBands>& bands,
                    std::int64_t step, const Processes& processes) {
  at::NoGradGuard no_grad;
  const c10::Device device = model.decoder.embedding()->value.device();
  const std::optional<Coverage> coverage = batches.coverage(step);
  ScoreSums seen(2, device), by_band(bands ? std::int64_t(bands->names.size()) : 1, device);
  const at::Tensor band_of = bands ? on_device(bands->band, device) : at::Tensor();
  const at::Tensor seen_targets = coverage ? on_device(coverage->seen_targets, device) : at::Tensor();
  const bool score_together = !model.head->is_whole();
  for (std::int64_t first = 0; first < batches.validation_batches(); first += processes.size()) {
    const std::int64_t index = first + processes.rank();
    if (index >= batches.validation_batches()) {  // the others need what this one knows of its words
      if (score_together) score_nothing(model);
      break;
    }
    const Batch batch = on_device(batches.validation_batch(index), device);
    const HeadInput input = run_decoder(model.decoder, *model.head, batch.tokens, batches.end_of_document());
    const TokenScores scores = model.head->token_scores(input, batch.targets);
    by_band.add(scores, bands ? band_of.index_select(0, batch.targets) : at::zeros_like(batch.targets));
    if (coverage) seen.add(scores, seen_targets.index_select(0, batch.targets).to(at::kLong));
  }
  by_band.sum_over(processes);
  if (coverage) seen.sum_over(processes);
  const GroupScores all = by_band.all();
  Validation validation{*all.loss, std::nullopt, *all.top1_accuracy, all.tokens, std::nullopt, {}};
  if (coverage)
    validation.coverage = {coverage->draws_per_symbol, coverage->share_seen, seen.scores(1), seen.scores(0)};
  if (bands)
    for (std::size_t band = 0; band < bands->names.size(); ++band)
      if (const GroupScores scores = by_band.scores(std::int64_t(band)); scores.tokens > 0)
        validation.by_frequency.emplace_back(bands->names[band], scores);
  if (const auto bytes = batches.validation_bytes_per_token())
    validation.bits_per_byte = validation.loss / std::numbers::ln2 / *bytes;
  return validation;
}

}  // namespace lmhead
