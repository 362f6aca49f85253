// Files that are opened to be read: regular ones alone, without ever waiting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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
  /// When its content was last changed, as of then: nanoseconds since 1970.
  std::int64_t modified() const { return modified_; }
  /// Everything from byte `begin` on. Throws where that is more than `most` bytes, before they are read.
  std::string read(std::uintmax_t most, std::uintmax_t begin = 0) const;
  /// The `size` bytes from `begin` on, which lie within `size()`. Throws where the file has become shorter since it was
  /// opened: bytes of a mapping would then be a signal. Calls from several threads are safe.
  void read_at(std::uintmax_t begin, void* bytes, std::size_t size) const;
  /// Tells the system that these bytes are not wanted again, so that others keep their place in its cache.
  void drop_cached(std::uintmax_t begin, std::uintmax_t size) const noexcept;
  /// Throws where the name no longer stands for the file that was opened, or that has been written to since.
  void require_unchanged() const;
  /// Hands over all that was there when it was opened, in order, a MiB at a time; throws as `read_at` does.
  void read_blocks(const std::function<void(const void* bytes, std::size_t size)>& take) const;

 private:
  /// Up to `size` bytes from `begin` on, and how many they are: 0 at the end.
  std::size_t read_some(std::uintmax_t begin, void* bytes, std::size_t size) const;

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uintmax_t size_ = 0;
  std::int64_t modified_ = 0;
  std::uint64_t device_ = 0, inode_ = 0;
};

}  // namespace lmhead
