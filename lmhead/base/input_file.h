// Files that are opened to be read: regular ones alone, without ever waiting.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace lmhead {

/// A regular file, open for reading. What else a name may stand for (a folder, pipe, socket, device) has no end, no
/// size or takes forever, and is refused; it is opened without waiting for whoever writes to it.
class InputFile {
 public:
  /// Throws where `path` cannot be read or is no regular file.
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  /// Bytes when it was opened.
  std::uintmax_t size() const { return size_; }
  /// Everything from the start. Throws where that is more than `most` bytes, before they are read.
  std::string read(std::uintmax_t most) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uintmax_t size_ = 0;
};

}  // namespace lmhead
