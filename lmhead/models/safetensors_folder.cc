#include "lmhead/models/safetensors_folder.h"

#include <set>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/models/safetensors_index.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

void check_same_names(const std::map<std::string, std::string>& weight_map, const TensorFolder& folder,
                      const std::string& index) {
  for (const auto& [name, shard] : weight_map) {
    const bool is_there = folder.contains(name) && folder.file_of(name).path().filename() == shard;
    require(is_there, "safetensors", index, ": tensor ", quote_for_message(name), " must be in ", shard,
            ", got none there");
  }
  for (const std::string& name : folder.names()) {
    require(weight_map.contains(name), "safetensors", folder.file_of(name).path().string(), ": tensor ",
            quote_for_message(name), " must be named by the index, got a tensor that is not");
  }
}

}  // namespace

void TensorFolder::add(SafetensorsFile file) {
  for (const std::string& name : file.names()) {
    const auto [place, is_new] = file_of_.emplace(name, files_.size());
    if (is_new) continue;
    fail("safetensors", file.path().string(), ": tensor ", quote_for_message(name),
         " must be in one shard, got it again after ", files_[place->second].path().string());
  }
  files_.push_back(std::move(file));
}

TensorFolder TensorFolder::open(const fs::path& folder_or_file) {
  TensorFolder folder(folder_or_file);
  if (!fs::is_directory(folder_or_file)) {
    folder.add(SafetensorsFile::open(folder_or_file));
    return folder;
  }
  if (fs::exists(folder_or_file / kSingle)) {
    folder.add(SafetensorsFile::open(folder_or_file / kSingle));
    return folder;
  }
  const fs::path index = folder_or_file / kIndex;
  const bool has_pickle =
      fs::exists(folder_or_file / "pytorch_model.bin") || fs::exists(folder_or_file / "pytorch_model.bin.index.json");
  require(
      fs::exists(index), "safetensors", folder_or_file.string(), " must hold ", kSingle, " or ", kIndex, ", got ",
      has_pickle ? "pickled weights only, which are never opened: save them with save_pretrained first" : "neither");
  const auto weight_map = parse_safetensors_index(read_file(index), index.string());
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);
  for (const std::string& shard : shards) {
    require(fs::exists(folder_or_file / shard), "safetensors", index.string(), ": shard ", shard,
            " must be in the folder, got no such file");
    folder.add(SafetensorsFile::open(folder_or_file / shard));
  }
  check_same_names(weight_map, folder, index.string());
  return folder;
}

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

const SafetensorsFile& TensorFolder::file_of(std::string_view name) const {
  const auto place = file_of_.find(name);
  require(place != file_of_.end(), "safetensors", path_.string(), ": tensor \"", name,
          "\" must be there, got none of that name");
  return files_[place->second];
}

}  // namespace lmhead
