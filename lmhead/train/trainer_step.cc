// One step: gradients of the micro-batches, what observers and rules make of them, the update, the validation.
#include <ATen/ops/_foreach_mul.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <numeric>
#include <sstream>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/train/shared_step.h"
#include "lmhead/train/trainer.h"

namespace lmhead {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double mean_of(const std::vector<double>& losses) {
  return std::accumulate(losses.begin(), losses.end(), 0.0) / double(losses.size());
}

HeadInput detached(const HeadInput& input) {
  HeadInput result = input;
  result.hidden = input.hidden.detach();
  for (at::Tensor& layer : result.layers) layer = layer.detach();
  return result;
}

/// Sums figures by name, in the order of their first appearance.
void add_figures(std::vector<std::pair<std::string, double>>& sums,
                 const std::vector<std::pair<std::string, double>>& figures, double share) {
  for (const auto& [name, value] : figures) {
    const auto known = std::ranges::find(sums, name, [](const auto& sum) { return sum.first; });
    if (known != sums.end()) known->second += share * value;
    else sums.emplace_back(name, share * value);
  }
}

void multiply(const std::vector<at::Tensor>& gradients, double factor) {
  std::vector<at::Tensor> defined;
  for (const at::Tensor& gradient : gradients)
    if (gradient.defined()) defined.push_back(gradient);
  if (!defined.empty()) at::_foreach_mul_(defined, factor);
}

}  // namespace

StepRecord Trainer::step() {
  const auto start = Clock::now();
  const double exchanged = processes_.seconds(), sent = processes_.sent_bytes();
  const std::int64_t step = state_.step + 1;
  refresh_working(parameters_);
  std::vector<at::Tensor> gradients(parameters_.size());
  StepView view{step, {}, {}, *model_.head};
  std::vector<std::pair<std::string, double>> figures;
  const std::vector<at::Tensor> losses = accumulate_gradients(gradients, &view, &figures);
  // Observers and rules count on finite figures. Elsewhere the loss is read with the norm, in one wait for the device.
  const bool is_watched =
      head_gradient_ || std::ranges::any_of(observers_, [&](const auto& observer) { return observer->wants(step); });
  std::optional<double> loss;
  std::vector<double> has = exchange_ ? exchange_->own(gradients) : std::vector<double>();
  if (device_.is_cpu() || is_watched || exchange_) {
    const std::vector<double> own = read_numbers(losses);
    loss = processes_.alone() ? mean_of(own) : meet(processes_, configuration_.data, own, figures, has);
    require_finite("loss", *loss);
  }
  double seconds = seconds_since(start);

  // Observers see the parameters that the gradients belong to, so they come before the update.
  const auto measure_start = Clock::now();
  Json observations = Json::object();
  for (const auto& [name, value] : figures) observations["head"][name] = value;
  observations.update(observe(view));
  state_.measure_seconds += seconds_since(measure_start);

  const auto update_start = Clock::now();
  if (exchange_) {
    std::vector<at::Tensor> met = exchange_->finish(has);
    for (std::size_t index = 0; index < met.size(); ++index)
      if (!sharing_.layout.is(Placement::kHere, index)) gradients[index] = met[index];
  }
  if (state_.loss_scale.is_on()) multiply(gradients, 1 / state_.loss_scale.factor);
  gradient_hook_(gradients);
  if (head_gradient_) head_gradient_->change_head(parameters_, gradients);
  for (std::size_t index = 0; index < gradients.size(); ++index)
    if (sharing_.layout.is(Placement::kSharedOut, index) && !sharing_.scattered[index] && gradients[index].defined())
      gradients[index] = rows_of(gradients[index], own_rows()[index]);
  std::vector<at::Tensor> unread = gradient_norms(gradients);
  const std::ptrdiff_t norms = std::ssize(unread);
  if (!loss && reads_loss(step)) unread.insert(unread.end(), losses.begin(), losses.end());
  const std::vector<double> numbers = read_numbers(unread);
  if (std::ssize(unread) > norms) {
    loss = mean_of({numbers.begin() + norms, numbers.end()});
    require_finite("loss", *loss);
  }
  const double norm = norm_of_all(gradients, {numbers.begin(), numbers.begin() + norms});
  const double factor = schedule_factor(configuration_.schedule, step, configuration_.training.steps);
  LossScale scale = state_.loss_scale;
  update(gradients, norm, step, factor);
  scale.skipped_steps = state_.loss_scale.skipped_steps;
  seconds += seconds_since(update_start);

  // A step is done once its figures are known to be finite.
  std::optional<Validation> validation;
  if (validates(step)) {
    refresh_working(parameters_);
    validation = validate(model_, *batches_, frequency_bands_, step, processes_);
    require_finite("validation loss", validation->loss);
    if (state_.best_step == 0 || validation->loss < state_.best_validation_loss) {
      state_.best_step = step;
      state_.best_validation_loss = validation->loss;
    }
    if (head_gradient_) observations["head_gradient"] = head_gradient_->figures();
  }

  const std::int64_t tokens = batches_->tokens_per_step();
  state_.step = step;
  state_.tokens += tokens;
  state_.wall_seconds += seconds;
  speeds_.push_back(double(tokens) / seconds);
  return {step,
          state_.tokens,
          reads_loss(step) ? loss : std::nullopt,
          configuration_.optimizer.learning_rate * factor,
          norm,
          speeds_.back(),
          state_.wall_seconds,
          state_.measure_seconds,
          processes_.alone() ? std::nullopt : std::optional(processes_.seconds() - exchanged),
          processes_.alone() ? std::nullopt : std::optional(processes_.sent_bytes() - sent),
          std::move(validation),
          std::move(observations),
          scale};
}

bool Trainer::validates(std::int64_t step) const {
  const std::int64_t every = configuration_.training.validate_every;
  return step == configuration_.training.steps || (every > 0 && step % every == 0);
}

bool Trainer::reads_loss(std::int64_t step) const {
  return step % configuration_.training.log_every == 0 || validates(step);
}

void Trainer::update(std::vector<at::Tensor>& gradients, double norm, std::int64_t step, double factor) {
  const bool is_finite = std::isfinite(norm);
  if (!state_.loss_scale.can_fall()) require_finite("gradient's norm", norm);
  state_.loss_scale.note(is_finite);
  if (!is_finite) return;
  const double clip = configuration_.training.clip_norm;
  if (clip > 0 && norm > clip) multiply(gradients, clip / (norm + 1e-6));  // as torch.nn.utils.clip_grad_norm_
  optimizer_->step(gradients, step, factor);
  model_.head->after_update(context_of(step, 0));
}

StepContext Trainer::context_of(std::int64_t step, std::int64_t part) const {
  return {.seed = std::uint64_t(configuration_.training.seed),
          .step = step,
          .steps = configuration_.training.steps,
          .part = part};
}

std::vector<at::Tensor> Trainer::accumulate_gradients(std::vector<at::Tensor>& gradients, StepView* last,
                                                      std::vector<std::pair<std::string, double>>* figures) {
  const std::int64_t parts = configuration_.data.micro_batches, sequences = configuration_.data.batch_size / parts;
  const std::int64_t length = configuration_.data.sequence_length, first = share_.begin(sequences);
  const std::int64_t own = share_.end(sequences) - first;
  const bool keeps_statistics = std::ranges::any_of(
      observers_, [&](const auto& observer) { return observer->wants_statistics() && observer->wants(last->step); });
  const double weight = double(own) / double(sequences * parts);  // of a part's loss in that of the batch
  std::vector<at::Tensor> losses;
  for (std::int64_t part = 0; part < parts; ++part) {
    const Batch batch = feed_.take(last->step - 1, part);
    std::vector<at::Tensor> layers;
    const bool needs_layers = head_gradient_ && head_gradient_->needs_layers();
    HeadInput input = run_decoder(model_.decoder, *model_.head, batch.tokens, batches_->end_of_document(),
                                  needs_layers ? &layers : nullptr);
    input.step = context_of(last->step, part);
    if (head_gradient_)
      head_gradient_->attach(last->step, part, parts, input.hidden, layers, batch.targets, first * length,
                             sequences * length);
    if (model_.head->needs().batch_targets && !processes_.alone())
      input.batch_targets = processes_.gather_rows(batch.targets);
    const auto [loss, said] = model_.head->training_loss(
        input, batch.targets, configuration_.loss, keeps_statistics && part == parts - 1 ? &last->statistics : nullptr);
    add_figures(*figures, said, weight);
    losses.push_back(loss.detach());
    // A rule on the head's gradients sends sums of its own in between.
    const bool is_exchanged = exchange_ && !head_gradient_ && part == parts - 1;
    if (is_exchanged) exchange_->watch(gradients);
    // The same numbers as of one process whose micro-batches are the shares.
    const double shares = double(parts * share_.count);
    const at::Tensor share = shares == 1 ? loss : sequences % share_.count == 0 ? loss.div(shares) : loss.mul(weight);
    (state_.loss_scale.is_on() ? share.mul(state_.loss_scale.factor) : share).backward();
    feed_.send_next(last->step - 1, part);
    for (std::size_t index = 0; index < parameters_.size(); ++index) {
      const at::Tensor gradient = take_gradient(*parameters_[index]);
      if (!gradient.defined() || (is_exchanged && !sharing_.layout.is(Placement::kHere, index))) continue;
      gradients[index] = gradients[index].defined() ? gradients[index].add_(gradient) : gradient;
    }
    last->input = detached(input);
    last->targets = batch.targets;
  }
  return losses;
}

double Trainer::norm_of_all(const std::vector<at::Tensor>& gradients, const std::vector<double>& norms) const {
  std::vector<double> whole, parts;
  std::size_t next = 0;
  for (std::size_t index = 0; index < gradients.size(); ++index)
    if (gradients[index].defined())
      (sharing_.layout.is(Placement::kEverywhere, index) ? whole : parts).push_back(norms[next++]);
  if (sharing_.layout.is_all_everywhere()) return euclidean_norm(whole);
  const double of_whole = euclidean_norm(whole), of_parts = euclidean_norm(parts);
  return std::sqrt(of_whole * of_whole + processes_.sum(of_parts * of_parts));
}

void Trainer::require_finite(const char* what, double value) const {
  if (std::isfinite(value)) return;
  const auto newest = checkpoints_.newest();
  std::ostringstream text;
  text << "[train] the " << what << " must be finite, got " << value << " at step " << state_.step + 1 << "; "
       << (newest ? "the checkpoint of step " + std::to_string(*newest) + " is kept" : "there is no checkpoint yet");
  throw Divergence(text.str());
}

Json Trainer::observe(StepView& view) const {
  Json observations = Json::object();
  const auto looks = [&](const auto& observer) { return observer->wants(view.step) && observer->wants_tokens(); };
  if (!processes_.alone() && std::ranges::any_of(observers_, looks)) gather_view(processes_, view);
  for (const auto& observer : observers_)
    if (observer->wants(view.step) && (processes_.is_first() || observer->is_of_all_processes()))
      observations[observer->name()] = observer->observe(view);
  return observations;
}

}  // namespace lmhead
