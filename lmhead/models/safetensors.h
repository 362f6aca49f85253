// safetensors files as tensors: read where they are asked for, written atomically.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lmhead/base/files.h"
#include "lmhead/base/input_file.h"
#include "lmhead/models/safetensors_header.h"
#include "lmhead/models/tensor_pieces.h"

namespace lmhead {

/// One safetensors file, its header checked (see `read_safetensors_header`), its tensors read on demand. A file that is
/// cut short while it is open is an error where what is missing is read.
class SafetensorsFile {
 public:
  /// Opens the file and reads its header. Throws where the file breaks any rule of the format.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// Every name, ascending.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return header_.find(name) != nullptr; }
  /// dtype, shape and bytes of a tensor. Throws where there is none of that name.
  const SafetensorsEntry& info(std::string_view name) const;
  /// Its dtype in ATen's terms. Throws for types that ATen cannot hold (F4, F6).
  at::ScalarType type(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// The tensor in its own dtype and shape, contiguous.
  ///
  /// Throws for types that ATen cannot hold, for BOOL bytes other than 0 and 1, and where memory could not
  /// hold it. Non-finite numbers are data.
  at::Tensor tensor(std::string_view name) const;
  /// Its rows [begin, begin + count); the same errors, and where it has no such rows.
  at::Tensor rows(std::string_view name, std::int64_t begin, std::int64_t count) const;
  /// Reads it into a tensor of the same shape, of this type or another; the same errors. Memory, where that is
  /// contiguous and on the CPU: none, or 4 MiB for another type.
  void read_into(std::string_view name, const at::Tensor& into) const;
  /// Reads the tensor and throws it away, so that the system has it at hand when it is read in earnest. Stops early
  /// where `stopped` says so; says nothing of what is wrong with the file.
  void read_ahead(std::string_view name, const std::atomic<bool>& stopped) const noexcept;
  /// Tells the system that the tensor will not be read again soon.
  void drop_cached(std::string_view name) const;
  /// Throws where the file was replaced, removed or written to since it was opened.
  void require_unchanged() const { file_->require_unchanged(); }

 private:
  SafetensorsFile(std::filesystem::path path, std::shared_ptr<const InputFile> file, SafetensorsHeader header)
      : path_(std::move(path)), file_(std::move(file)), header_(std::move(header)) {}
  void read_numbers(const SafetensorsEntry& entry, std::int64_t first, const at::Tensor& into) const;

  std::filesystem::path path_;
  std::shared_ptr<const InputFile> file_;
  SafetensorsHeader header_;
};

/// The header's word for an ATen type. Throws for a type that the format does not know.
std::string_view safetensors_dtype(at::ScalarType type);

/// Replaces `path` by a file that holds these tensors and this metadata; returns the hash of its content.
///
/// Tensors stand in the order given, but wider element types first, so that all data is aligned (which the
/// reader in Python insists on). Tensors that share memory are written once each. Memory: one tensor at most,
/// and that only where it is not contiguous or not on the CPU. Throws on names that the reader would refuse;
/// `path` is then untouched.
std::string write_safetensors(const std::filesystem::path& path,
                              const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                              const std::map<std::string, std::string>& metadata = {});
/// The same of tensors that come in pieces. Memory: a piece.
std::string write_pieces(const std::filesystem::path& path, const std::vector<TensorPieces>& tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace lmhead
