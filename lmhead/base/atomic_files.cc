#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <optional>

#include "lmhead/base/content_hash.h"
#include "lmhead/base/descriptor.h"
#include "lmhead/base/files.h"

namespace lmhead {

namespace fs = std::filesystem;
using detail::Descriptor;
using detail::fail_system;
using detail::sync_directory;

namespace {

constexpr std::size_t kHashedPiece = std::size_t(256) << 10;  // in the cache still when it is written
constexpr std::size_t kWrittenBack = std::size_t(8) << 20;

fs::path beside(const fs::path& path, const char* suffix) {
  return path.string() + suffix + std::to_string(::getpid());
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// NAME and ".tmp" or ".old" out of NAME.tmp7.
struct Leftover {
  std::string name, suffix;
};

std::optional<Leftover> as_leftover(const std::string& file) {
  const std::size_t dot = file.rfind('.');
  if (dot == std::string::npos || dot == 0 || file.size() <= dot + 4) return std::nullopt;
  const std::string suffix = file.substr(dot, 4);
  const bool is_numbered = std::all_of(file.begin() + std::ptrdiff_t(dot) + 4, file.end(),
                                       [](unsigned char letter) { return std::isdigit(letter) != 0; });
  if ((suffix != ".tmp" && suffix != ".old") || !is_numbered) return std::nullopt;
  return Leftover{file.substr(0, dot), suffix};
}

void remove_leftovers_of(const fs::path& path) {
  remove_leftovers(folder_of(path), [own = path.filename().string()](const std::string& name) { return name == own; });
}

/// Puts `fresh` in the place of `path` in one step; what stood there, if anything did, is then at `fresh`.
void put_in_place(const fs::path& fresh, const fs::path& path) {
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno == ENOENT) {
    if (::rename(fresh.c_str(), path.c_str()) != 0) fail_system("replaceable", path, errno);
  } else if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) {  // network and user-space file systems
    detail::exchange_in_two_steps(fresh, path);
  } else {
    fail_system("replaceable", path, errno);
  }
}

}  // namespace

std::string replace_file_atomic(
    const fs::path& path, const std::function<void(const std::function<void(const void*, std::size_t)>&)>& write) {
  const fs::path temporary = beside(path, ".tmp");
  remove_leftovers_of(path);
  ContentHash hash;
  try {
    const Descriptor descriptor(temporary, O_WRONLY | O_CREAT | O_TRUNC, "writable");
    detail::try_lock(descriptor.get());
    std::size_t written = 0, synced = 0;
    write([&](const void* data, std::size_t size) {
      auto* bytes = static_cast<const std::byte*>(data);
      for (std::size_t done = 0; done < size;) {
        const std::size_t piece = std::min(kHashedPiece, size - done);
        hash.update(bytes + done, piece);
        detail::write_all(descriptor.get(), bytes + done, piece, temporary);
        done += piece;
        written += piece;
        if (written - synced < kWrittenBack) continue;
        // The disk begins while the rest is hashed and copied: the sync at the end then has less to wait for.
        ::sync_file_range(descriptor.get(), off_t(synced), off_t(written - synced), SYNC_FILE_RANGE_WRITE);
        synced = written;
      }
    });
    if (::fsync(descriptor.get()) != 0) fail_system("writable", temporary, errno);
    // Still locked: until it has its name it must not pass for a leftover.
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_system("replaceable", path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path.parent_path());
  return hash.hex();
}

std::string write_file_atomic(const fs::path& path, std::string_view content) {
  return replace_file_atomic(path, [&](const auto& write) { write(content.data(), content.size()); });
}

void replace_directory_atomic(const fs::path& path, const std::function<void(const fs::path&)>& fill) {
  const fs::path temporary = beside(path, ".tmp");
  std::error_code ignored;
  remove_leftovers_of(path);
  fs::remove_all(temporary, ignored);
  try {
    make_directory(temporary);
    const Descriptor descriptor(temporary, O_RDONLY | O_DIRECTORY, "a readable folder");
    detail::try_lock(descriptor.get());
    fill(temporary);
    sync_directory(temporary);
    put_in_place(temporary, path);
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  sync_directory(path.parent_path());
  fs::remove_all(temporary, ignored);
}

void remove_directory_atomic(const fs::path& path) {
  const fs::path temporary = beside(path, ".tmp");
  std::error_code ignored;  // what cannot be removed costs space, not correctness
  remove_leftovers_of(path);
  if (::rename(path.c_str(), temporary.c_str()) == 0) fs::remove_all(temporary, ignored);
}

void remove_leftovers(const fs::path& directory, const std::function<bool(const std::string& name)>& is_ours) {
  std::error_code ignored;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(directory, ignored), end; entry != end; entry.increment(ignored)) {
    const auto leftover = as_leftover(entry->path().filename().string());
    if (leftover && is_ours(leftover->name)) found.push_back(entry->path());
  }
  for (const fs::path& path : found) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (detail::try_lock(descriptor)) {
      const Leftover leftover = *as_leftover(path.filename().string());
      const fs::path whole = path.parent_path() / leftover.name;
      // A kill between the two steps of an exchange: what was pushed aside goes back.
      const bool goes_back = leftover.suffix == ".old" && !fs::exists(fs::symlink_status(whole, ignored));
      if (!goes_back || ::rename(path.c_str(), whole.c_str()) != 0) fs::remove_all(path, ignored);
    }
    ::close(descriptor);
  }
}

void detail::exchange_in_two_steps(const fs::path& fresh, const fs::path& path) {
  const fs::path old = beside(path, ".old");
  const Descriptor there(path, O_RDONLY, "readable");
  try_lock(there.get());  // lest it pass for a leftover while it is aside
  if (::rename(path.c_str(), old.c_str()) != 0) fail_system("replaceable", path, errno);
  if (::rename(fresh.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::rename(old.c_str(), path.c_str());
    fail_system("replaceable", path, error);
  }
  ::rename(old.c_str(), fresh.c_str());
}

}  // namespace lmhead
