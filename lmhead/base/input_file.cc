#include "lmhead/base/input_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

/// Raises how many files this process may have open to what the system allows it: a data set may have more shards than
/// the usual 1024.
bool may_open_more() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

std::int64_t modification_of(const struct stat& status) {
  return std::int64_t(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

[[noreturn]] void fail_unreadable(const std::filesystem::path& path, int error) {
  fail("files", path.string(), " must be readable, got: ", std::strerror(error));
}

}  // namespace

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  // Without O_NONBLOCK the open itself waits for a pipe's other end.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  descriptor_ = ::open(path_.c_str(), kFlags);
  if (descriptor_ < 0 && errno == EMFILE && may_open_more()) descriptor_ = ::open(path_.c_str(), kFlags);
  const int error = errno;
  struct stat status{};
  // A socket cannot be opened at all, and the reason that the system gives names no socket.
  const bool is_known = descriptor_ >= 0 ? ::fstat(descriptor_, &status) == 0 : ::stat(path_.c_str(), &status) == 0;
  try {
    require(!is_known || S_ISREG(status.st_mode), "files", path_.string(), " must be a file, got ",
            kind_of(status.st_mode));
    if (!is_known || descriptor_ < 0) fail_unreadable(path_, descriptor_ < 0 ? error : errno);
  } catch (...) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw;
  }
  size_ = std::uintmax_t(status.st_size);
  modified_ = modification_of(status);
  device_ = std::uint64_t(status.st_dev), inode_ = std::uint64_t(status.st_ino);
}

InputFile::~InputFile() { ::close(descriptor_); }

std::string InputFile::read(std::uintmax_t most, std::uintmax_t begin) const {
  require(size_ <= begin || size_ - begin <= most, "files", path_.string(), " must have at most ", most, " bytes, got ",
          size_ - begin);
  std::string content;
  content.reserve(size_ > begin ? size_ - begin : 0);
  char buffer[1 << 16];
  while (const std::size_t count = read_some(begin + content.size(), buffer, sizeof buffer)) {
    // It may have grown, and files of /proc have no size.
    require(count <= most - content.size(), "files", path_.string(), " must have at most ", most, " bytes, got more");
    content.append(buffer, count);
  }
  return content;
}

void InputFile::read_at(std::uintmax_t begin, void* bytes, std::size_t size) const {
  auto* out = static_cast<char*>(bytes);
  for (std::size_t done = 0; done < size;) {
    const std::size_t count = read_some(begin + done, out + done, size - done);
    require(count > 0, "files", path_.string(), " must keep the ", size_, " bytes that it had when it was opened, got ",
            begin + done, " at most: it was cut short since");
    done += count;
  }
}

void InputFile::drop_cached(std::uintmax_t begin, std::uintmax_t size) const noexcept {
  ::posix_fadvise(descriptor_, off_t(begin), off_t(size), POSIX_FADV_DONTNEED);  // advice: no matter where it fails
}

void InputFile::require_unchanged() const {
  struct stat status{};
  const auto must = [&](bool holds, const char* got) {
    require(holds, "files", path_.string(), " must stay as it was when it was opened, got ", got);
  };
  must(::stat(path_.c_str(), &status) == 0, "none of that name");
  must(std::uint64_t(status.st_dev) == device_ && std::uint64_t(status.st_ino) == inode_, "another file in its place");
  must(std::uintmax_t(status.st_size) == size_ && modification_of(status) == modified_, "other content");
}

void InputFile::read_blocks(const std::function<void(const void*, std::size_t)>& take) const {
  std::vector<char> block(1 << 20);
  for (std::uintmax_t begin = 0; begin < size_; begin += block.size()) {
    const auto size = std::size_t(std::min<std::uintmax_t>(block.size(), size_ - begin));
    read_at(begin, block.data(), size);
    take(block.data(), size);
  }
}

std::size_t InputFile::read_some(std::uintmax_t begin, void* bytes, std::size_t size) const {
  ssize_t count;
  do count = ::pread(descriptor_, bytes, size, off_t(begin));
  while (count < 0 && errno == EINTR);
  if (count < 0) fail_unreadable(path_, errno);
  return std::size_t(count);
}

}  // namespace lmhead
