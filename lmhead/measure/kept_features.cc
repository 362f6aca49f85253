#include "lmhead/measure/kept_features.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <charconv>

#include "lmhead/base/content_hash.h"
#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/models/safetensors_folder.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char *kWho = "measure", *kLayers = "layers";

std::string identity_of(const fs::path& checkpoint, at::ScalarType type) {
  ContentHash hash;
  const auto add = [&](const std::string& text) { hash.update(text.c_str(), text.size() + 1); };
  add(LMHEAD_VERSION), add(c10::toString(type)), add(read_file(checkpoint / "config.json"));
  for (const TensorFolder folder = TensorFolder::open(checkpoint); const SafetensorsFile& file : folder.files()) {
    add(file.path().filename().string());
    add(std::to_string(fs::file_size(file.path())));
    add(std::to_string(fs::last_write_time(file.path()).time_since_epoch().count()));
  }
  return hash.hex();
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

KeptFeatures::KeptFeatures(fs::path folder, const fs::path& checkpoint, at::ScalarType type, double seconds)
    : folder_(std::move(folder)),
      identity_(identity_of(checkpoint, type)),
      seconds_(seconds),
      last_(std::chrono::steady_clock::now()) {
  make_directory(folder_);
}

fs::path KeptFeatures::file_of(const std::vector<at::Tensor>& tokens) const {
  ContentHash hash;
  hash.update(identity_.data(), identity_.size());
  for (const at::Tensor& given : tokens) {
    const at::Tensor ids = given.cpu().contiguous();
    hash.update(ids.sizes().data(), 2 * sizeof(std::int64_t));
    hash.update(ids.const_data_ptr(), ids.nbytes());
  }
  return folder_ / ("features-" + hash.hex() + ".safetensors");
}

std::optional<ChunkFeatures> KeptFeatures::read(const std::vector<at::Tensor>& tokens) {
  const fs::path path = file_of(tokens);
  if (!fs::exists(path)) return std::nullopt;
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto must = [&](bool holds, const std::string& what) {
    require(holds, kWho, path.string(), " must be what an interrupted measurement kept, got ", what,
            ": remove it to begin again");
  };
  const auto found = file.metadata().find(kLayers);
  ChunkFeatures kept{};
  must(found != file.metadata().end(), "no layers");
  const auto& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), kept.layers);
  must(error == std::errc() && end == text.data() + text.size() && kept.layers > 0, "other layers");
  for (std::size_t batch = 0; batch < tokens.size(); ++batch) {
    const std::string name = std::to_string(batch);
    must(file.contains(name) && file.info(name).dtype == "F32" && file.info(name).shape.size() == 2 &&
             file.info(name).shape[0] == tokens[batch].numel(),
         "other features");
    kept.features.push_back(file.tensor(name));
    must(at::isfinite(kept.features.back()).all().item<bool>(), "features that are not finite");
  }
  files_.push_back(path);
  return kept;
}

void KeptFeatures::write(const std::vector<at::Tensor>& tokens, std::size_t layers,
                         const std::vector<at::Tensor>& features, bool is_whole) {
  if (!is_whole && seconds_since(last_) < std::max(seconds_, 20 * last_took_)) return;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const at::Tensor& of_batch : features) tensors.emplace_back(std::to_string(tensors.size()), of_batch);
  const fs::path path = file_of(tokens);
  write_safetensors(path, tensors, {{kLayers, std::to_string(layers)}});
  if (std::ranges::count(files_, path) == 0) files_.push_back(path);
  last_took_ = seconds_since(begin);
  last_ = std::chrono::steady_clock::now();
}

void KeptFeatures::remove() {
  for (const fs::path& file : files_) fs::remove(file);
  files_.clear();
  std::error_code ignored;  // where others are still in it, it stays
  fs::remove(folder_, ignored);
}

}  // namespace lmhead
