#include "lmhead/measure/load_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/heads/linear.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors_folder.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWho = "measure";
constexpr std::int64_t kRowsAtOnce = 8192;  // that are checked, so that features need not fit into memory

/// Throws where the file has no such numbers of the wanted shape; -1 stands for any size.
void check_feature(const SafetensorsFile& file, const char* key, const std::vector<std::int64_t>& shape,
                   bool is_integer) {
  require(file.contains(key), kWho, file.path().string(), " must hold ", key, ", got none");
  const SafetensorsEntry& entry = file.info(key);
  const auto type = file.type(key);
  bool fits = entry.shape.size() == shape.size();
  for (std::size_t axis = 0; fits && axis < shape.size(); ++axis)
    fits = shape[axis] < 0 ? entry.shape[axis] > 0 : entry.shape[axis] == shape[axis];
  fits = fits && (is_integer ? at::isIntegralType(type, false) : at::isFloatingType(type));
  std::string wanted;
  for (const std::int64_t size : shape)
    wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? std::string("*") : std::to_string(size));
  require(fits, kWho, file.path().string(), ": ", key, " must be ", is_integer ? "integers" : "floating numbers", " [",
          wanted, "], got ", entry.dtype, " ", at::IntArrayRef(entry.shape));
  if (is_integer) return;
  for (std::int64_t row = 0; row < entry.shape[0]; row += kRowsAtOnce)
    require(at::isfinite(file.rows(key, row, std::min(kRowsAtOnce, entry.shape[0] - row))).all().item<bool>(), kWho,
            file.path().string(), ": ", key, " must be finite, got NaN or infinity in it");
}

at::Tensor feature(const SafetensorsFile& file, const char* key, const std::vector<std::int64_t>& shape,
                   bool is_integer) {
  check_feature(file, key, shape, is_integer);
  const at::Tensor tensor = file.tensor(key);
  return is_integer ? tensor.to(at::kLong) : tensor;
}

/// A number of the file's metadata, `fallback` where it is not there.
double metadata_number(const SafetensorsFile& file, const char* key, double fallback) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) return fallback;
  double value = 0;
  const char* end = found->second.data() + found->second.size();
  const auto [read, error] = std::from_chars(found->second.data(), end, value);
  require(error == std::errc() && read == end && std::isfinite(value) && value >= 0, kWho, file.path().string(), ": ",
          key, " must be a number of at least 0, got ", quote_for_message(found->second));
  return value;
}

LoadedModel load_features(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  LinearMap map{.weight = feature(file, "weight", {-1, -1}, false),
                .transform = {.scale = metadata_number(file, "logit_scale", 1),
                              .softcap = metadata_number(file, "logit_softcap", 0)}};
  const std::int64_t vocab_size = map.weight.size(0);
  if (file.contains("bias")) map.bias = feature(file, "bias", {vocab_size}, false);
  check_feature(file, "hidden", {-1, map.weight.size(1)}, false);
  Features features{
      .hidden = [file](std::int64_t begin, std::int64_t count) { return file.rows("hidden", begin, count); }};
  const std::int64_t tokens = file.info("hidden").shape[0];
  features.targets = feature(file, "targets", {tokens}, true);
  const at::Tensor wrong =
      features.targets.ge(vocab_size).logical_or(features.targets.lt(0).logical_and(features.targets.ne(-100)));
  if (wrong.any().item<bool>()) {
    const std::int64_t row = wrong.nonzero()[0][0].item<std::int64_t>();
    fail(kWho, path.string(), ": targets must be ids below ", vocab_size, " (or -100 to leave a row out), got ",
         features.targets[row].item<std::int64_t>(), " in row ", row);
  }
  require(features.targets.ne(-100).any().item<bool>(), kWho, path.string(),
          ": targets must hold an id, got nothing but -100");
  if (file.contains("documents")) features.documents = feature(file, "documents", {tokens}, true);
  if (file.contains("positions")) features.positions = feature(file, "positions", {tokens}, true);
  return {.kind = ModelKind::kFeatures, .name = path.string(), .head = make_linear_head(map), .features = features};
}

/// A model whose head is one linear map of fixed numbers, which is made anew on `device`.
LoadedModel moved(LoadedModel model, c10::Device device) {
  if (device.is_cpu()) return model;
  LinearMap map = *model.head->linear_map();
  const bool is_tied = model.decoder && map.weight.is_alias_of(model.decoder->embedding()->value);
  if (model.decoder) {
    ParameterList there;  // others have a shape alone: whoever reads them brings them to the device
    for (const ParameterPtr& parameter : model.decoder->parameters())
      if (!parameter->value.is_meta()) there.push_back(parameter);
    move_parameters(there, device);
  }
  map.weight = is_tied ? model.decoder->embedding()->value : on_device(map.weight, device);
  map.bias = on_device(map.bias, device);
  model.head = make_linear_head(map);
  return model;
}

/// Whether the processor multiplies bfloat16 by instructions of its own.
bool has_bfloat16_products() {
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const auto has = [&](const char* name) {
    const auto found = capabilities.find(name);
    return found != capabilities.end() && found->second.isBool() && found->second.toBool();
  };
  return has("amx_tile") || has("avx512_bf16");
}

}  // namespace

std::vector<fs::path> find_models(const fs::path& path, CheckpointChoice choice) {
  require(fs::exists(path), kWho, "a model must be a folder, a .safetensors or .gguf file or a name on the hub, got ",
          path.string());
  if (!fs::is_directory(path) || !is_trained_model(path)) return {path};
  return find_checkpoints(path, choice);
}

LoadedModel load_model(const fs::path& path, at::ScalarType type, c10::Device device) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(path)) return moved(load_features(path), device);
  if (!is_trained_model(path)) return moved(load_pretrained(path, type), device);
  LoadedModel model = open_trained_model(path);
  move_parameters(model.decoder->parameters(), device);
  move_parameters(model.head->parameters(), device);
  if (type != at::kFloat) {
    set_working_type(model.decoder->parameters(), type);
    set_working_type(model.head->parameters(), type);
  }
  return model;
}

LoadedModel open_model(const fs::path& path, at::ScalarType type, c10::Device device,
                       const BeforeReading& before_reading) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(path)) return load_model(path, at::kFloat, device);
  if (!is_trained_model(path)) return moved(open_pretrained(path, type, device, before_reading), device);
  LoadedModel model = load_model(path, at::kFloat, device);
  if (before_reading) before_reading(model);
  if (type != at::kFloat) set_working_type(model.decoder->parameters(), type);
  return model;
}

LoadedModel open_model_by_blocks(const fs::path& path, at::ScalarType type, c10::Device device) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(path) || is_trained_model(path)) return load_model(path, type, device);
  return moved(open_pretrained(path, type, device, {}, type), device);
}

at::ScalarType fastest_type(const fs::path& path, c10::Device device) {
  if (!fs::is_directory(path) || is_trained_model(path)) return at::kFloat;
  if (device.is_cpu() && !has_bfloat16_products()) return at::kFloat;
  double narrow = 0, all = 0;
  for (const TensorFolder folder = TensorFolder::open(path); const SafetensorsFile& file : folder.files())
    for (const std::string& name : file.names()) {
      const SafetensorsEntry& entry = file.info(name);
      all += double(entry.bytes());
      if (entry.dtype == "BF16") narrow += double(entry.bytes());
    }
  return narrow > all / 2 ? at::kBFloat16 : at::kFloat;
}

}  // namespace lmhead
