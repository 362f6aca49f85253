#include "lmhead/train/checkpoint.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// Copies every tensor of a file into the tensor of the same name, or none where any does not fit.
void read_into(const fs::path& path, const NamedTensors& tensors) {
  at::NoGradGuard no_grad;
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::set<std::string> left;
  for (const std::string& name : file.names()) left.insert(name);
  for (const auto& [name, into] : tensors) {
    require(left.erase(name) == 1, "checkpoint", path.string(), " must hold a tensor ", name, ", got none");
    const at::Tensor from = file.tensor(name);
    require(from.sizes() == into.sizes() && from.scalar_type() == into.scalar_type(), "checkpoint", path.string(), ": ",
            name, " must be ", into.scalar_type(), " ", into.sizes(), ", got ", from.scalar_type(), " ", from.sizes());
  }
  require(left.empty(), "checkpoint", path.string(), " must hold nothing but this model's tensors, got ",
          left.empty() ? "" : *left.begin());
  for (const auto& [name, into] : tensors) at::Tensor(into).copy_(file.tensor(name));
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
  visitor.field("threads", threads, "threads the run used", at_least(0));
}

CheckpointFolder::CheckpointFolder(fs::path folder, std::int64_t keep_last)
    : folder_(std::move(folder)), keep_last_(keep_last) {}

fs::path CheckpointFolder::path_of(std::int64_t step) const {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return folder_ / name;
}

void CheckpointFolder::save(const TrainingState& state, const ParameterList& parameters, Optimizer& optimizer,
                            const NamedTensors& head_gradient) const {
  make_directory(folder_);
  replace_directory_atomic(path_of(state.step), [&](const fs::path& folder) {
    write_safetensors(folder / "model.safetensors", named_tensors(parameters), {{"format", "pt"}});
    write_safetensors(folder / "optimizer.safetensors", optimizer.state());
    if (!head_gradient.empty()) write_safetensors(folder / "head_gradient.safetensors", head_gradient);
    write_file_atomic(folder / "state.json", write_options(state).dump(2) + "\n");
  });
  if (state.best_step > 0)
    write_file_atomic(folder_ / "best.json",
                      Json{{"step", state.best_step}, {"validation_loss", state.best_validation_loss}}.dump(2) + "\n");
  remove_superfluous(state);
}

std::vector<std::int64_t> CheckpointFolder::steps() const {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    std::int64_t step = 0;
    if (name.rfind("step-", 0) != 0) continue;
    const auto parsed = std::from_chars(name.data() + 5, name.data() + name.size(), step);
    // A folder still being written, or pushed aside, has a suffix.
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size()) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<std::int64_t> CheckpointFolder::newest() const {
  const auto all = steps();
  return all.empty() ? std::nullopt : std::optional(all.back());
}

void CheckpointFolder::remove_superfluous(const TrainingState& state) const {
  auto all = steps();
  std::error_code ignored;  // what cannot be removed costs space, not correctness
  for (std::size_t index = 0; index + std::size_t(keep_last_) < all.size(); ++index)
    if (all[index] != state.best_step) fs::remove_all(path_of(all[index]), ignored);
  for (const auto& entry : fs::directory_iterator(folder_, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find(".tmp") != std::string::npos || name.find(".old") != std::string::npos)
      fs::remove_all(entry.path(), ignored);
  }
}

TrainingState CheckpointFolder::load(std::int64_t step, const ParameterList& parameters, Optimizer& optimizer,
                                     const NamedTensors& head_gradient) const {
  const fs::path folder = path_of(step);
  const auto state = read_options<TrainingState>(read_json(folder / "state.json"), (folder / "state.json").string());
  load_parameters(folder / "model.safetensors", parameters);
  read_into(folder / "optimizer.safetensors", optimizer.state());
  if (!head_gradient.empty()) read_into(folder / "head_gradient.safetensors", head_gradient);
  return state;
}

void load_parameters(const fs::path& file, const ParameterList& parameters) {
  read_into(file, named_tensors(parameters));
}

}  // namespace lmhead
