#include "lmhead/study/measured_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/causal_model.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors.h"
#include "lmhead/study/run.h"
#include "lmhead/train/checkpoint.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWho = "measure";
constexpr std::int64_t kRowsAtOnce = 8192;  // of a mapped tensor, so that checking it makes no copy of it

Json read_json(const fs::path& file) { return parse_json(read_file(file), file.string()); }

bool is_checkpoint(const fs::path& path) { return fs::is_regular_file(path / "state.json"); }

/// A run's configuration has the decoder under `model`; a Hugging Face one says `model_type`.
bool is_run(const fs::path& path) {
  if (!fs::is_regular_file(path / "config.json")) return false;
  const Json json = read_json(path / "config.json");
  return json.is_object() && json.contains("model") && json["model"].is_object() && !json.contains("model_type");
}

std::vector<std::int64_t> checkpoint_steps(const fs::path& folder) {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    std::int64_t step = 0;
    if (name.rfind("step-", 0) != 0) continue;
    const auto parsed = std::from_chars(name.data() + 5, name.data() + name.size(), step);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size() && is_checkpoint(entry.path()))
      steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::int64_t best_step(const fs::path& folder) {
  const fs::path file = folder / "best.json";
  require(fs::is_regular_file(file), kWho, file.string(), " must be there for the best checkpoint, got none");
  const Json json = read_json(file);
  require(json.is_object() && json.contains("step") && json["step"].is_number_integer(), kWho, file.string(),
          ": step must be an integer, got ", json.is_object() && json.contains("step") ? json["step"].dump() : "none");
  return json["step"].get<std::int64_t>();
}

std::int64_t integer_or(const Json& json, const char* key, std::int64_t fallback) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number_integer() ? found->get<std::int64_t>() : fallback;
}

MeasuredModel load_folder(const fs::path& path, const std::string& name) {
  PretrainedModel pretrained = load_pretrained(path);
  const Json json = read_json(path / "config.json");
  MeasuredModel model{.name = name, .kind = ModelKind::kPretrained, .family = pretrained.model_type};
  const std::int64_t learned = pretrained.decoder.specification().position_embeddings;
  model.longest_sequence =
      learned > 0 ? learned : std::max<std::int64_t>(integer_or(json, "max_position_embeddings", 0), 0);
  model.longest_is_limit = learned > 0;
  // Some configurations name several ends; the first one is that of a document.
  Json end = json.value("eos_token_id", Json());
  if (end.is_array() && !end.empty()) end = Json(end[0]);
  if (end.is_number_integer()) model.end_of_document = end.get<std::int64_t>();
  if (fs::is_regular_file(path / "tokenizer.json")) model.tokenizer = path / "tokenizer.json";
  model.head = pretrained.head;
  model.decoder = std::make_shared<const Decoder>(std::move(pretrained.decoder));
  return model;
}

/// What the run's dataset says of its tokens, where the dataset is still there.
void read_dataset(const TrainConfiguration& train, MeasuredModel& model) {
  const fs::path sidecar = fs::path(train.data.path) / "dataset.json";
  if (train.data.kind != "tokens" || !fs::is_regular_file(sidecar)) return;
  const Json json = read_json(sidecar);
  if (!json.is_object()) return;
  if (const auto end = json.find("end_of_document"); end != json.end() && end->is_number_integer())
    model.end_of_document = end->get<std::int64_t>();
  const fs::path tokenizer = sidecar.parent_path() / "tokenizer.json";
  if (fs::is_regular_file(tokenizer)) model.tokenizer = tokenizer;
  model.bytes_are_tokens = json.value("tokenizer_hash", Json()) == "bytes";
}

MeasuredModel load_checkpoint(const fs::path& path, const std::string& name) {
  const fs::path run = fs::absolute(path).lexically_normal() / ".." / "..";
  const fs::path file = (run / "config.json").lexically_normal(), weights = path / "model.safetensors";
  require(fs::is_regular_file(file), kWho, "the checkpoint ", path.string(), " must lie in checkpoints/ of its run, got no ",
          file.string());
  const auto configuration = read_options<RunConfiguration>(read_json(file), file.string());
  const SafetensorsFile tensors = SafetensorsFile::open(weights);
  constexpr const char* kEmbedding = "model.embed_tokens.weight";
  require(tensors.contains(kEmbedding) && tensors.info(kEmbedding).shape.size() == 2, kWho, weights.string(),
          " must hold ", kEmbedding, " [V, D], got none");
  const TrainConfiguration& train = configuration.train;
  CausalModel causal(train.model, train.head, tensors.info(kEmbedding).shape[0], 0);
  load_parameters(weights, causal.parameters());
  const auto map = causal.head->linear_map();
  require(map.has_value(), kWho, "the head must be a linear map to be measured, got ", train.head.type(), " in ", file.string());
  MeasuredModel model{.name = name, .kind = ModelKind::kCheckpoint, .family = train.head.type(), .head = *map};
  const Json state = read_json(path / "state.json");
  model.step = integer_or(state, "step", 0);
  model.training_tokens = integer_or(state, "tokens", 0);
  const std::int64_t learned = causal.decoder.specification().position_embeddings;
  model.longest_sequence = learned > 0 ? learned : train.data.sequence_length;
  model.longest_is_limit = learned > 0;
  read_dataset(train, model);
  model.decoder = std::make_shared<const Decoder>(std::move(causal.decoder));
  return model;
}

/// A tensor of the file with the wanted shape; -1 stands for any size.
at::Tensor feature(const SafetensorsFile& file, const char* key, const std::vector<std::int64_t>& shape, bool is_integer) {
  require(file.contains(key), kWho, file.path().string(), " must hold ", key, ", got none");
  const at::Tensor tensor = file.tensor(key);
  bool fits = tensor.dim() == std::int64_t(shape.size());
  for (std::size_t axis = 0; fits && axis < shape.size(); ++axis)
    fits = shape[axis] < 0 ? tensor.size(axis) > 0 : tensor.size(axis) == shape[axis];
  const bool type = is_integer ? at::isIntegralType(tensor.scalar_type(), false) : at::isFloatingType(tensor.scalar_type());
  std::string wanted;
  for (const std::int64_t size : shape) wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? std::string("*") : std::to_string(size));
  require(fits && type, kWho, file.path().string(), ": ", key, " must be ", is_integer ? "integers" : "floating numbers",
          " [", wanted, "], got ", file.info(key).dtype, " ", tensor.sizes());
  if (is_integer) return tensor.to(at::kLong);
  for (std::int64_t row = 0; row < tensor.size(0); row += kRowsAtOnce)
    require(at::isfinite(tensor.narrow(0, row, std::min(kRowsAtOnce, tensor.size(0) - row))).all().item<bool>(), kWho,
            file.path().string(), ": ", key, " must be finite, got NaN or infinity in it");
  return tensor;
}

MeasuredModel load_features(const fs::path& path, const std::string& name) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  MeasuredModel model{.name = name, .kind = ModelKind::kFeatures};
  model.head.weight = feature(file, "weight", {-1, -1}, false);
  const std::int64_t vocab_size = model.head.weight.size(0);
  if (file.contains("bias")) model.head.bias = feature(file, "bias", {vocab_size}, false);
  model.hidden = feature(file, "hidden", {-1, model.head.weight.size(1)}, false);
  const std::int64_t tokens = model.hidden.size(0);
  model.targets = feature(file, "targets", {tokens}, true);
  const at::Tensor wrong = model.targets.ge(vocab_size).logical_or(model.targets.lt(0).logical_and(model.targets.ne(-100)));
  if (wrong.any().item<bool>()) {
    const std::int64_t row = wrong.nonzero()[0][0].item<std::int64_t>();
    fail(kWho, path.string(), ": targets must be ids below ", vocab_size, " (or -100 to leave a row out), got ",
         model.targets[row].item<std::int64_t>(), " in row ", row);
  }
  require(model.targets.ne(-100).any().item<bool>(), kWho, path.string(), ": targets must hold an id, got nothing but -100");
  if (file.contains("documents")) model.documents = feature(file, "documents", {tokens}, true);
  if (file.contains("positions")) model.positions = feature(file, "positions", {tokens}, true);
  return model;
}

}  // namespace

const char* to_string(ModelKind kind) {
  return kind == ModelKind::kPretrained ? "pretrained" : kind == ModelKind::kCheckpoint ? "checkpoint" : "features";
}

std::vector<fs::path> find_models(const fs::path& path, CheckpointChoice choice) {
  require(fs::exists(path), kWho, "a model must be a folder, a .safetensors file or a name on the hub, got ", path.string());
  if (!fs::is_directory(path) || is_checkpoint(path) || !is_run(path)) return {path};
  const fs::path folder = path / "checkpoints";
  const std::vector<std::int64_t> steps = checkpoint_steps(folder);
  require(!steps.empty(), kWho, folder.string(), " must hold a checkpoint, got none");
  const auto path_of = [&](std::int64_t step) { return CheckpointFolder(folder, 1).path_of(step); };
  if (choice == CheckpointChoice::kNewest) return {path_of(steps.back())};
  if (choice == CheckpointChoice::kBest) return {path_of(best_step(folder))};
  std::vector<fs::path> all;
  for (const std::int64_t step : steps) all.push_back(path_of(step));
  return all;
}

MeasuredModel load_measured_model(const fs::path& path, const std::string& name) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(path)) return load_features(path, name);
  return is_checkpoint(path) ? load_checkpoint(path, name) : load_folder(path, name);
}

}  // namespace lmhead
