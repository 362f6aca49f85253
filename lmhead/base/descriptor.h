// File descriptors for the files of this room: closed on every way out, with errors that name the file.
#pragma once

#include <fcntl.h>

#include <cstddef>
#include <filesystem>
#include <string>

namespace lmhead::detail {

[[noreturn]] void fail_system(const char* must, const std::filesystem::path& path, int error);

class Descriptor {
 public:
  /// Opens the file; throws that `path` must be `must`.
  Descriptor(const std::filesystem::path& path, int flags, const char* must);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

/// Writes everything; throws where that is not possible.
void write_all(int descriptor, const void* data, std::size_t size, const std::filesystem::path& path);

/// Appends `line` and its end to a file that nobody else writes to meanwhile; `durable`: it then survives a loss of
/// power. Throws where it cannot be written whole (a full disk); nothing of it is left then, as far as that can be
/// done.
void append_line(int descriptor, const std::string& line, const std::filesystem::path& path, bool durable);

/// Whether the last line has no end.
bool ends_within_a_line(int descriptor, const std::filesystem::path& path);

/// Makes the names in a folder survive a loss of power: a rename is durable only once its folder is.
void sync_directory(const std::filesystem::path& directory);

/// Marks what is open as in use by this process, which ends with the process however that ends; false where another
/// one holds it.
bool try_lock(int descriptor);

}  // namespace lmhead::detail
