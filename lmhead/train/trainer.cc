#include "lmhead/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <sys/resource.h>
#include <torch/version.h>

#include <algorithm>
#include <ctime>

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

}  // namespace

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
