#include "lmhead/measure/load_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/heads/linear.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWho = "measure";
constexpr std::int64_t kRowsAtOnce = 8192;  // of a mapped tensor, so that checking it makes no copy of it

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

LoadedModel load_features(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  LinearMap map{.weight = feature(file, "weight", {-1, -1}, false)};
  const std::int64_t vocab_size = map.weight.size(0);
  if (file.contains("bias")) map.bias = feature(file, "bias", {vocab_size}, false);
  Features features{.hidden = feature(file, "hidden", {-1, map.weight.size(1)}, false)};
  const std::int64_t tokens = features.hidden.size(0);
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

}  // namespace

std::vector<fs::path> find_models(const fs::path& path, CheckpointChoice choice) {
  require(fs::exists(path), kWho, "a model must be a folder, a .safetensors or .gguf file or a name on the hub, got ",
          path.string());
  if (!fs::is_directory(path) || !is_trained_model(path)) return {path};
  return find_checkpoints(path, choice);
}

LoadedModel load_model(const fs::path& path) {
  at::NoGradGuard no_grad;
  if (!fs::is_directory(path)) return load_features(path);
  return is_trained_model(path) ? open_trained_model(path) : load_pretrained(path);
}

}  // namespace lmhead
