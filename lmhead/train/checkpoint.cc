#include "lmhead/train/checkpoint.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/safetensors.h"
#include "lmhead/train/checksums.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModel = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kHeadGradient = "head_gradient.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kBest = "best.json";

/// The step in a name such as step-00000040; a folder that is being written, or pushed aside, has a suffix and none.
std::optional<std::int64_t> step_named(const std::string& name) {
  std::int64_t step = 0;
  if (!name.starts_with("step-")) return std::nullopt;
  const auto parsed = std::from_chars(name.data() + 5, name.data() + name.size(), step);
  return parsed.ec == std::errc() && parsed.ptr == name.data() + name.size() ? std::optional(step) : std::nullopt;
}

/// The checkpoints' folders by step, those among them that are cut short.
std::map<std::int64_t, fs::path> step_folders(const fs::path& folder) {
  std::map<std::int64_t, fs::path> folders;
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; entry != end; entry.increment(ignored))
    if (const auto step = step_named(entry->path().filename().string())) folders[*step] = entry->path();
  return folders;
}

bool is_checkpoint(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_regular_file(folder / kState, ignored);
}

/// Throws where a checkpoint's file is damaged, and says from where one can go on.
void require_undamaged(const fs::path& file) {
  const auto damage = damage_of(file);
  if (!damage) return;
  const fs::path checkpoint = file.parent_path();
  std::string way_out = "; there is no earlier checkpoint that is whole";
  const auto own = step_named(checkpoint.filename().string());
  for (const auto& [step, folder] : step_folders(checkpoint.parent_path()))
    if (own && step < *own && is_undamaged(folder))
      way_out =
          "; the checkpoint of step " + std::to_string(step) + " is whole: remove those after it to go on from there";
  fail("checkpoint", file.string(), " ", *damage, way_out);
}

/// Reads what is wanted of every tensor of a file, or nothing where any does not fit.
void read_into(const fs::path& path, const std::vector<StoredRows>& tensors) {
  at::NoGradGuard no_grad;
  require_undamaged(path);
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::set<std::string> left;
  for (const std::string& name : file.names()) left.insert(name);
  for (const auto& [name, into, shape, first_row] : tensors) {
    require(left.erase(name) == 1, "checkpoint", path.string(), " must hold a tensor ", name, ", got none");
    const SafetensorsEntry& from = file.info(name);
    const auto type = safetensors_dtype(into.defined() ? into.scalar_type() : at::kFloat);
    require(from.shape == shape && from.dtype == type, "checkpoint", path.string(), ": ", name, " must be ", type, " ",
            at::IntArrayRef(shape), ", got ", from.dtype, " ", at::IntArrayRef(from.shape));
  }
  require(left.empty(), "checkpoint", path.string(), " must hold nothing but this model's tensors, got ",
          left.empty() ? "" : *left.begin());
  for (const auto& [name, into, shape, first_row] : tensors) {
    if (!into.defined()) continue;
    if (shape.empty() ? into.numel() == 1 : into.size(0) == shape[0]) file.read_into(name, into.view(shape));
    else if (shape.empty()) continue;  // another process has it
    else at::Tensor(into).copy_(file.rows(name, first_row, into.size(0)));
  }
}

std::vector<StoredRows> all_rows_of(const NamedTensors& tensors) {
  std::vector<StoredRows> all;
  for (const auto& [name, tensor] : tensors) all.push_back({name, tensor, tensor.sizes().vec()});
  return all;
}

}  // namespace

void TrainingState::visit_fields(FieldVisitor& visitor) {
  visitor.field("step", step, "steps done", at_least(0));
  visitor.field("tokens", tokens, "training tokens seen", at_least(0));
  visitor.field("wall_seconds", wall_seconds, "training time so far", at_least(0));
  visitor.field("measure_seconds", measure_seconds, "time in observers so far", at_least(0));
  visitor.field("best_step", best_step, "step of the lowest validation loss; 0: none yet", at_least(0));
  visitor.field("best_validation_loss", best_validation_loss, "the loss there");
  visitor.list("trained_by", trained_by, "the processes that did the steps");
  visitor.field("dataset_hash", dataset_hash, "content_hash of the dataset");
  visitor.field("tokenizer_hash", tokenizer_hash, "of the dataset's tokenizer");
  visitor.field("configuration_hash", configuration_hash, "of the complete configuration");
  visitor.field("initial_weights_hash", initial_weights_hash, "of training.initial_weights; empty where there is none");
  visitor.field("head_weights_hash", head_weights_hash, "of head.weights; empty where there is none");
  visitor.field("threads", threads, "threads a process of the run used", at_least(0));
  visitor.field("processes", processes, "processes that trained together", at_least(1));
  visitor.field("log_bytes", log_bytes, "length of the log up to this step", at_least(0));
  visitor.field("log_hash", log_hash, "of the log up to this step");
  visitor.field("loss_scale", loss_scale.factor, "what the next step's loss is multiplied by; 0: nothing", at_least(0));
  visitor.field("finite_steps", loss_scale.finite_steps, "steps with a finite gradient since that changed",
                at_least(0));
  visitor.field("skipped_steps", loss_scale.skipped_steps, "steps whose gradient was not finite", at_least(0));
}

CheckpointFolder::CheckpointFolder(fs::path folder, std::int64_t keep_last)
    : folder_(std::move(folder)), keep_last_(keep_last) {}

fs::path CheckpointFolder::path_of(std::int64_t step) const {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return folder_ / name;
}

void CheckpointFolder::save(const TrainingState& state, const NamedTensors& parameters, const NamedTensors& optimizer,
                            const NamedTensors& head_gradient) const {
  save(state, in_one_piece(parameters), in_one_piece(optimizer), head_gradient);
}

void CheckpointFolder::save(const TrainingState& state, const std::vector<TensorPieces>& parameters,
                            const std::vector<TensorPieces>& optimizer, const NamedTensors& head_gradient) const {
  make_directory(folder_);
  replace_directory_atomic(path_of(state.step), [&](const fs::path& folder) {
    std::map<std::string, std::string> hash_of;
    const auto write = [&](const char* name, const std::vector<TensorPieces>& tensors,
                           const std::map<std::string, std::string>& metadata = {}) {
      hash_of[name] = write_pieces(folder / name, tensors, metadata);
    };
    write(kModel, parameters, {{"format", "pt"}});
    write(kOptimizer, optimizer);
    if (!head_gradient.empty()) write(kHeadGradient, in_one_piece(head_gradient));
    hash_of[kState] = write_file_atomic(folder / kState, write_options(state).dump(2) + "\n");
    write_checksums(folder, hash_of);
  });
  settle(state);
}

std::optional<std::int64_t> CheckpointFolder::newest() const {
  const auto all = checkpoint_steps(folder_);
  return all.empty() ? std::nullopt : std::optional(all.back());
}

void CheckpointFolder::settle(const TrainingState& state) const {
  remove_leftovers(folder_, [](const std::string& name) { return name == kBest || step_named(name); });
  std::vector<std::int64_t> kept = checkpoint_steps(folder_);
  kept.erase(kept.begin(), kept.end() - std::min<std::ptrdiff_t>(keep_last_, std::ssize(kept)));
  kept.push_back(state.best_step);
  for (const auto& [step, folder] : step_folders(folder_))
    if (step < state.step && std::find(kept.begin(), kept.end(), step) == kept.end()) remove_directory_atomic(folder);
  if (state.best_step == 0) return;
  const std::string best =
      Json{{"step", state.best_step}, {"validation_loss", state.best_validation_loss}}.dump(2) + "\n";
  if (!fs::exists(folder_ / kBest) || read_file(folder_ / kBest) != best) write_file_atomic(folder_ / kBest, best);
}

TrainingState CheckpointFolder::load(std::int64_t step, const std::vector<StoredRows>& parameters, Optimizer& optimizer,
                                     const NamedTensors& head_gradient) const {
  const fs::path folder = path_of(step);
  const TrainingState state = read_training_state(folder);
  load_parameters(folder / kModel, parameters);
  read_into(folder / kOptimizer, optimizer.stored_state());
  if (!head_gradient.empty()) read_into(folder / kHeadGradient, all_rows_of(head_gradient));
  return state;
}

std::vector<std::int64_t> checkpoint_steps(const fs::path& folder) {
  std::vector<std::int64_t> steps;
  for (const auto& [step, checkpoint] : step_folders(folder))
    if (is_checkpoint(checkpoint)) steps.push_back(step);
  return steps;
}

TrainingState read_training_state(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kState;
  require_undamaged(file);
  return read_options<TrainingState>(read_json(file), file.string());
}

void load_parameters(const fs::path& file, const ParameterList& parameters) {
  read_into(file, stored_parameters(parameters));
}

void load_parameters(const fs::path& file, const std::vector<StoredRows>& parameters) { read_into(file, parameters); }

std::vector<StoredRows> stored_parameters(const ParameterList& parameters) {
  return all_rows_of(named_tensors(parameters));
}

}  // namespace lmhead
