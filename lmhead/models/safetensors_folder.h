// One namespace of tensors over a safetensors file, or over the shards of a folder in the Hugging Face
// layout.
#pragma once

#include <map>

#include "lmhead/models/safetensors.h"

namespace lmhead {

/// The tensors of a checkpoint, wherever they lie.
class TensorFolder {
 public:
  /// Opens a `.safetensors` file, or a folder's `model.safetensors` or, without that, its
  /// `model.safetensors.index.json`. Throws where index and shards do not name the same tensors, and,
  /// pointing to the remedy, where a folder has pickle only.
  static TensorFolder open(const std::filesystem::path& folder_or_file);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// Every name, ascending.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return file_of_.find(name) != file_of_.end(); }
  /// The four below throw where there is no tensor of that name.
  const SafetensorsFile& file_of(std::string_view name) const;
  const SafetensorsEntry& info(std::string_view name) const { return file_of(name).info(name); }
  at::Tensor tensor(std::string_view name) const { return file_of(name).tensor(name); }
  void read_into(std::string_view name, const at::Tensor& into) const { file_of(name).read_into(name, into); }
  /// The metadata of the file, or of the first shard.
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }

 private:
  explicit TensorFolder(std::filesystem::path path) : path_(std::move(path)) {}
  void add(SafetensorsFile file);

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_of_;
};

}  // namespace lmhead
