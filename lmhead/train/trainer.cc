#include "lmhead/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/constant_pad_nd.h>
#include <sys/resource.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <iterator>
#include <numeric>
#include <sstream>

#include "lmhead/base/content_hash.h"
#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/train/gathered_rows.h"
#include "lmhead/train/memory_estimate.h"
#include "lmhead/train/row_rates.h"
#include "lmhead/train/sharded_optimizer.h"
#include "lmhead/train/shared_step.h"
#include "lmhead/train/starting_files.h"

namespace lmhead {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string now_in_iso_8601() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::unique_ptr<BatchSource> open_run_batches(const TrainConfiguration& configuration) {
  return open_batches(configuration.data, std::uint64_t(configuration.training.seed), configuration.model.vocab_size);
}

std::int64_t model_vocab_size(const TrainConfiguration& configuration, const BatchSource& batches) {
  return configuration.model.vocab_size.value_or(batches.vocab_size());
}

/// Now that the vocabulary is known, and before anything is allocated.
Sharing share_out_checked(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes) {
  require_training_memory(configuration, vocab_size, processes);
  return share_out(configuration, vocab_size, processes);
}

ParameterList parameters_on(const CausalModel& model, c10::Device device) {
  ParameterList parameters = model.parameters();
  move_parameters(parameters, device);
  return parameters;
}

double mean_of(const std::vector<double>& losses) {
  return std::accumulate(losses.begin(), losses.end(), 0.0) / double(losses.size());
}

std::unique_ptr<HeadGradient> make_head_gradient(const TrainConfiguration& configuration, const LmHead& head,
                                                 c10::Device device, const Processes& processes) {
  return HeadGradient::make(configuration.head_gradient, head, configuration.loss,
                            {.hidden_size = head.hidden_size(),
                             .vocab_size = head.vocab_size(),
                             .has_linear_map = head.linear_map().has_value(),
                             .initializer_range = configuration.model.initializer_range,
                             .seed = std::uint64_t(configuration.training.seed),
                             .device = device,
                             .processes = processes},
                            configuration.model.num_hidden_layers);
}

std::optional<FrequencyBands> bands_of(const BatchSource& batches) {
  const auto counts = batches.token_counts();
  return counts ? std::optional(frequency_bands(*counts)) : std::nullopt;
}

/// For `vocab_size` ids, of which the data may have fewer; empty where they cannot be counted.
std::function<at::Tensor()> token_counts_of(const BatchSource& batches, std::int64_t vocab_size) {
  return [&batches, vocab_size]() -> at::Tensor {
    const auto counts = batches.token_counts();
    return counts ? at::constant_pad_nd(*counts, {0, vocab_size - counts->size(0)}) : at::Tensor();
  };
}

/// Empty where they are not known.
std::function<std::vector<std::string>()> token_bytes_of(const BatchSource& batches) {
  return [&batches] { return batches.token_bytes().value_or(std::vector<std::string>()); };
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

Json to_json(const StepRecord& record) {
  Json json = {{"step", record.step},
               {"tokens", record.tokens},
               {"loss", record.loss ? Json(*record.loss) : Json(nullptr)},
               {"learning_rate", record.learning_rate},
               {"gradient_norm", record.gradient_norm},
               {"tokens_per_second", record.tokens_per_second},
               {"wall_seconds", record.wall_seconds},
               {"measure_seconds", record.measure_seconds}};
  if (!record.loss) json.erase("loss");
  if (!std::isfinite(record.gradient_norm)) json.erase("gradient_norm");
  if (record.loss_scale.is_on())
    json["loss_scale"] = record.loss_scale.factor, json["skipped_steps"] = record.loss_scale.skipped_steps;
  if (record.exchange_seconds) json["exchange_seconds"] = *record.exchange_seconds;
  if (record.exchange_bytes) json["exchange_bytes"] = std::llround(*record.exchange_bytes);
  if (record.validation) json["validation"] = to_json(*record.validation);
  for (const auto& item : record.observations.items()) json[item.key()] = item.value();
  return json;
}

Trainer::Trainer(const TrainConfiguration& configuration, const Json& complete, const std::filesystem::path& run_folder,
                 const std::function<Json(const Json&)>& completed, const Processes& processes)
    : configuration_(configuration),
      device_(find_device(configuration.training.device, "train")),
      processes_(processes),
      share_(share_of(configuration.data, processes)),
      folder_(processes.is_first() ? std::make_unique<RunFolder>(run_folder, complete, completed) : nullptr),
      batches_(open_run_batches(configuration)),
      feed_(*batches_, device_, share_),
      sharing_(share_out_checked(configuration, model_vocab_size(configuration, *batches_), processes.size())),
      model_(configuration.model, configuration.head, model_vocab_size(configuration, *batches_),
             rows_of_share(fresh_parameters(std::uint64_t(configuration.training.seed)), sharing_.word_rows,
                           {processes.rank(), processes.size()}),
             token_counts_of(*batches_, model_vocab_size(configuration, *batches_)), token_bytes_of(*batches_),
             word_processes()),
      parameters_(parameters_on(model_, device_)),
      optimizer_(
          with_row_rates(sharing_.layout.is_all_everywhere()
                             ? make_optimizer(configuration.optimizer, parameters_)
                             : make_sharded_optimizer(configuration.optimizer, parameters_, sharing_.layout, processes),
                         configuration.optimizer, parameters_, model_.word_rows(),
                         token_counts_of(*batches_, model_vocab_size(configuration, *batches_)),
                         {processes.rank(), processes.size()})),
      head_gradient_(make_head_gradient(configuration, *model_.head, device_, processes)),
      checkpoints_(checkpoints_of(run_folder), configuration.training.keep_last),
      frequency_bands_(bands_of(*batches_)),
      started_(now_in_iso_8601()) {
  if (configuration_.training.threads) at::set_num_threads(int(*configuration_.training.threads));
  model_.head->check_loss(configuration_.loss);
  model_.decoder.recompute_blocks(configuration_.training.checkpoint_activations);
  restore(complete);
  const at::ScalarType working = configuration_.training.working_type();
  require(working != at::kHalf || !head_gradient_, "train",
          "head_gradient must have no rule where training.precision is float16, whose gradients are scaled");
  if (working == at::kHalf && !state_.loss_scale.is_on()) state_.loss_scale.factor = LossScale::kFirst;
  set_working_type(parameters_, working);
  if (processes.alone()) return;
  exchange_ = std::make_unique<GradientExchange>(parameters_, sharing_.layout, sharing_.scattered, processes);
}

void Trainer::restore(const Json& complete) {
  if (const auto newest = checkpoints_.newest()) {
    state_ = checkpoints_.load(*newest, stored_model(), *optimizer_, head_gradient_state());
    resumed_threads_ = state_.threads;
    resumed_processes_ = state_.processes;
    const std::string where = checkpoints_.path_of(*newest).string();
    require(state_.tokenizer_hash == batches_->tokenizer_hash(), "train", where,
            " must come from a dataset with the same tokenizer ", state_.tokenizer_hash, ", got ",
            batches_->tokenizer_hash());
    require(state_.dataset_hash == batches_->content_hash(), "train", where, " must come from the same dataset ",
            state_.dataset_hash, ", got ", batches_->content_hash());
  } else {
    if (!configuration_.training.initial_weights.empty())
      load_parameters(configuration_.training.initial_weights, stored_model());
    for (const StartingFile& file : starting_files(complete)) state_.*file.kind.hash = hash_file(file.path);
  }
  add_this_process(state_.trained_by, state_.step);
  state_.dataset_hash = batches_->content_hash();
  state_.tokenizer_hash = batches_->tokenizer_hash();
  state_.configuration_hash = hash_configuration(complete);
  state_.threads = at::get_num_threads();
  state_.processes = processes_.size();
  if (!folder_) return;
  for (Json& line : folder_->open_log(state_.step, {state_.log_bytes, state_.log_hash})) {
    if (const Json speed = line.value("tokens_per_second", Json()); speed.is_number()) speeds_.push_back(speed);
    if (line.contains("validation")) last_validated_line_ = std::move(line);
  }
  checkpoints_.settle(state_);
}

bool Trainer::run(const TrainerControl& control) {
  const TrainingOptions& options = configuration_.training;
  if (folder_) folder_->remove_summary();
  while (state_.step < options.steps) {
    const StepRecord record = step();
    const bool last = state_.step == options.steps;
    if (folder_) {
      Json line = to_json(record);
      folder_->append(line);
      if (record.validation) last_validated_line_ = std::move(line);
    }
    const bool best = record.validation && state_.best_step == state_.step;
    const bool stop = !last && processes_.any(control.should_stop());
    const bool due = options.checkpoint_every > 0 && state_.step % options.checkpoint_every == 0;
    if (last || stop || due || best) save();
    control.on_step(record);
    if (stop) return false;
  }
  return true;
}

void Trainer::require_finite(const char* what, double value) const {
  if (std::isfinite(value)) return;
  const auto newest = checkpoints_.newest();
  std::ostringstream text;
  text << "[train] the " << what << " must be finite, got " << value << " at step " << state_.step + 1 << "; "
       << (newest ? "the checkpoint of step " + std::to_string(*newest) + " is kept" : "there is no checkpoint yet");
  throw Divergence(text.str());
}

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

std::vector<StoredRows> Trainer::stored_model() const {
  std::vector<StoredRows> stored = stored_parameters(parameters_);
  for (StoredRows& one : stored)
    for (std::size_t index = 0; index < parameters_.size(); ++index)
      if (parameters_[index]->name == one.name && sharing_.layout.is(Placement::kHere, index)) {
        one.shape = sharing_.layout.shapes[index];
        one.first_row = own_rows()[index].first;
      }
  return stored;
}

std::vector<TensorPieces> Trainer::whole_model() const {
  std::vector<TensorPieces> whole = in_one_piece(named_tensors(parameters_));
  for (TensorPieces& one : whole)
    for (std::size_t index = 0; index < parameters_.size(); ++index)
      if (parameters_[index]->name == one.name && sharing_.layout.is(Placement::kHere, index))
        one = gathered_rows(one.name, parameters_[index]->value.detach(), sharing_.layout.shapes[index],
                            sharing_.layout.rows_of_processes(index), processes_);
  return whole;
}

NamedTensors Trainer::head_gradient_state() const { return head_gradient_ ? head_gradient_->state() : NamedTensors{}; }

Json Trainer::observe(StepView& view) const {
  Json observations = Json::object();
  const auto looks = [&](const auto& observer) { return observer->wants(view.step) && observer->wants_tokens(); };
  if (!processes_.alone() && std::ranges::any_of(observers_, looks)) gather_view(processes_, view);
  for (const auto& observer : observers_)
    if (observer->wants(view.step) && (processes_.is_first() || observer->is_of_all_processes()))
      observations[observer->name()] = observer->observe(view);
  return observations;
}

void Trainer::save() {
  const std::vector<TensorPieces> model = whole_model(), optimizer = optimizer_->whole_state();
  if (!folder_) {
    give_in_file_order(model);
    give_in_file_order(optimizer);
    return;
  }
  const LogEnd log = folder_->sync_log();  // first, so that no checkpoint outlives lines that it counts on
  state_.log_bytes = log.bytes;
  state_.log_hash = log.hash;
  checkpoints_.save(state_, model, optimizer, head_gradient_state());
}

std::string Trainer::inputs() const {
  std::string text = "step " + std::to_string(state_.step) + ", dataset " + state_.dataset_hash + ", tokenizer " +
                     state_.tokenizer_hash;
  for (const StartingFileKind& kind : starting_file_kinds())
    if (const std::string& hash = state_.*kind.hash; !hash.empty()) text += std::string(", ") + kind.name + " " + hash;
  return text;
}

Json Trainer::summary(const std::string& state) const {
  std::vector<double> speeds = speeds_;
  std::sort(speeds.begin(), speeds.end());
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const CausalModel shapes = shapes_of(configuration_, model_.head->vocab_size());
  const std::int64_t all = count_trained(shapes.parameters()), head = count_trained(shapes.head->parameters());
  Json summary = {
      {"state", state},
      {"steps", state_.step},
      {"tokens", state_.tokens},
      {"wall_seconds", state_.wall_seconds},
      {"measure_seconds", state_.measure_seconds},
      {"tokens_per_second", speeds.empty() ? Json(nullptr) : Json(speeds[speeds.size() / 2])},
      {"peak_memory_bytes", std::int64_t(usage.ru_maxrss) * 1024},
      {"parameters", all},
      {"parameters_head", head},
      {"parameters_body", all - head},
      {"final", last_validated_line_ ? *last_validated_line_ : Json(nullptr)},
      {"best", state_.best_step > 0 ? Json{{"step", state_.best_step}, {"validation_loss", state_.best_validation_loss}}
                                    : Json(nullptr)},
      {"vocab_size", model_.head->vocab_size()},
      {"hidden_size", model_.head->hidden_size()},
      {"dataset", {{"content_hash", state_.dataset_hash}}}};
  for (const StartingFileKind& kind : starting_file_kinds()) summary[kind.name] = state_.*kind.hash;
  summary.update({{"version", LMHEAD_VERSION},
                  {"torch_version", TORCH_VERSION},
                  {"trained_by", to_json(state_.trained_by)},
                  {"threads", at::get_num_threads()},
                  {"device", device_.str()},
                  {"started", started_},
                  {"finished", now_in_iso_8601()}});
  if (processes_.alone()) return summary;
  summary["processes"] = processes_.size();
  if (sharing_.words) summary["vocabulary_parallel"] = true;
  return summary;
}

}  // namespace lmhead
