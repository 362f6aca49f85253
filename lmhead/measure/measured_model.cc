#include "lmhead/measure/measured_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWho = "measure";
constexpr std::int64_t kRowsAtOnce = 8192;  // of a mapped tensor, so that checking it makes no copy of it

Json read_json(const fs::path& file) { return parse_json(read_file(file), file.string()); }

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

MeasuredModel load_checkpoint(const fs::path& path, const std::string& name) {
  TrainedModel trained = open_trained_model(path);
  const TrainConfiguration& train = trained.configuration.train;
  MeasuredModel model{.name = name, .kind = ModelKind::kCheckpoint, .family = train.head.type()};
  model.step = trained.state.step;
  model.training_tokens = trained.state.tokens;
  const RunText text = text_of_run(trained);
  model.end_of_document = text.end_of_document;
  model.bytes_are_tokens = text.is_bytes;
  if (text.tokenizer) model.tokenizer = *text.tokenizer;
  const std::int64_t learned = trained.model.decoder.specification().position_embeddings;
  model.longest_sequence = learned > 0 ? learned : train.data.sequence_length;
  model.longest_is_limit = learned > 0;
  if (const auto map = trained.model.head->linear_map()) model.head = *map;
  else model.nonlinear_head = std::move(trained.model.head);
  model.decoder = std::make_shared<const Decoder>(std::move(trained.model.decoder));
  return model;
}

/// A tensor of the file with the wanted shape; -1 stands for any size.
at::Tensor feature(const SafetensorsFile& file, const char* key, const std::vector<std::int64_t>& shape,
                   bool is_integer) {
  require(file.contains(key), kWho, file.path().string(), " must hold ", key, ", got none");
  const at::Tensor tensor = file.tensor(key);
  bool fits = tensor.dim() == std::int64_t(shape.size());
  for (std::size_t axis = 0; fits && axis < shape.size(); ++axis)
    fits = shape[axis] < 0 ? tensor.size(axis) > 0 : tensor.size(axis) == shape[axis];
  const bool type =
      is_integer ? at::isIntegralType(tensor.scalar_type(), false) : at::isFloatingType(tensor.scalar_type());
  std::string wanted;
  for (const std::int64_t size : shape)
    wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? std::string("*") : std::to_string(size));
  require(fits && type, kWho, file.path().string(), ": ", key, " must be ",
          is_integer ? "integers" : "floating numbers", " [", wanted, "], got ", file.info(key).dtype, " ",
          tensor.sizes());
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
  const at::Tensor wrong =
      model.targets.ge(vocab_size).logical_or(model.targets.lt(0).logical_and(model.targets.ne(-100)));
  if (wrong.any().item<bool>()) {
    const std::int64_t row = wrong.nonzero()[0][0].item<std::int64_t>();
    fail(kWho, path.string(), ": targets must be ids below ", vocab_size, " (or -100 to leave a row out), got ",
         model.targets[row].item<std::int64_t>(), " in row ", row);
  }
  require(model.targets.ne(-100).any().item<bool>(), kWho, path.string(),
          ": targets must hold an id, got nothing but -100");
  if (file.contains("documents")) model.documents = feature(file, "documents", {tokens}, true);
  if (file.contains("positions")) model.positions = feature(file, "positions", {tokens}, true);
  return model;
}

}  // namespace

const char* to_string(ModelKind kind) {
  return kind == ModelKind::kPretrained ? "pretrained" : kind == ModelKind::kCheckpoint ? "checkpoint" : "features";
}

std::int64_t MeasuredModel::vocab_size() const {
  return nonlinear_head ? nonlinear_head->vocab_size() : head.weight.size(0);
}

std::vector<fs::path> find_models(const fs::path& path, CheckpointChoice choice) {
  require(fs::exists(path), kWho, "a model must be a folder, a .safetensors file or a name on the hub, got ",
          path.string());
  if (!fs::is_directory(path) || !is_trained_model(path)) return {path};
  return find_checkpoints(path, choice);
}

MeasuredModel load_measured_model(const fs::path& path, const std::string& name) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(path)) return load_features(path, name);
  return is_trained_model(path) ? load_checkpoint(path, name) : load_folder(path, name);
}

}  // namespace lmhead
