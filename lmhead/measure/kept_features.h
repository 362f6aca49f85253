// What an interrupted measurement keeps of its features, so that it goes on where it was.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lmhead {

/// What is kept of a chunk: the features [B T, D] float32 of its batches after so many blocks.
struct ChunkFeatures {
  std::size_t layers;
  std::vector<at::Tensor> features;
};

/// The features of one measurement in a folder, a safetensors file a chunk, replaced atomically. Its name is a hash of
/// the checkpoint, the precision and the chunk's ids, so that several measurements share a folder and what another
/// one kept is never taken. Disk: 4 D bytes a token.
class KeptFeatures {
 public:
  /// `checkpoint` is a folder in the Hugging Face layout: its configuration counts, and its shards' names, sizes and
  /// times of change. Between two writes of a chunk lie at least `seconds`, and twenty times what the last one took.
  KeptFeatures(std::filesystem::path folder, const std::filesystem::path& checkpoint, at::ScalarType type,
               double seconds = 30);

  /// What is kept of the chunk of these batches [B, T] of ids. Throws where the file is damaged.
  std::optional<ChunkFeatures> read(const std::vector<at::Tensor>& tokens);
  /// Keeps `features` after `layers` blocks, if it is time or `is_whole`.
  void write(const std::vector<at::Tensor>& tokens, std::size_t layers, const std::vector<at::Tensor>& features,
             bool is_whole);
  /// Removes what was read and written through this object.
  void remove();

 private:
  std::filesystem::path file_of(const std::vector<at::Tensor>& tokens) const;

  std::filesystem::path folder_;
  std::string identity_;
  double seconds_, last_took_ = 0;
  std::chrono::steady_clock::time_point last_;
  std::vector<std::filesystem::path> files_;
};

}  // namespace lmhead
