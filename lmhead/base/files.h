// Files that are whole or absent: atomic replacement, append-only logs, read-only mappings.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace lmhead {

/// The whole content of a regular file (see InputFile) of at most 4 GiB. Throws when it cannot be read.
std::string read_file(const std::filesystem::path& path);

/// Replaces `path` by `content`: a reader, or a kill at any moment, sees the old content or the new.
void write_file_atomic(const std::filesystem::path& path, std::string_view content);

/// Calls `write` to fill a file beside `path`, syncs it and renames it onto `path`; on an error `path` is untouched.
void replace_file_atomic(const std::filesystem::path& path,
                         const std::function<void(const std::function<void(const void*, std::size_t)>&)>& write);

/// Fills a new directory through `fill(temporary)` and renames it to `path`, replacing what stood there.
void replace_directory_atomic(const std::filesystem::path& path,
                              const std::function<void(const std::filesystem::path&)>& fill);

/// Makes the directory and its parents. Throws when that is not possible.
void make_directory(const std::filesystem::path& path);

/// Appends whole lines to a file; each line is in the file when `append` returns.
class LineLog {
 public:
  explicit LineLog(const std::filesystem::path& path);
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;
  void append(const std::string& line);
  /// Waits until what was appended would survive a loss of power.
  void sync();

 private:
  std::filesystem::path path_;
  int descriptor_;
};

/// A file mapped read-only; empty files have a null `data`. Memory: pages are read on demand and shared.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace lmhead
