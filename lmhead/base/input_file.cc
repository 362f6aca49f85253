#include "lmhead/base/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

[[noreturn]] void fail_unreadable(const std::filesystem::path& path, int error) {
  fail("files", path.string(), " must be readable, got: ", std::strerror(error));
}

}  // namespace

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
  // Without O_NONBLOCK the open itself waits for a pipe's other end.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
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
}

InputFile::~InputFile() { ::close(descriptor_); }

std::string InputFile::read(std::uintmax_t most) const {
  require(size_ <= most, "files", path_.string(), " must have at most ", most, " bytes, got ", size_);
  std::string content;
  content.reserve(size_);
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::pread(descriptor_, buffer, sizeof buffer, off_t(content.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_unreadable(path_, errno);
    if (count == 0) return content;
    // It may have grown, and files of /proc have no size.
    require(std::uintmax_t(count) <= most - content.size(), "files", path_.string(), " must have at most ", most,
            " bytes, got more");
    content.append(buffer, std::size_t(count));
  }
}

}  // namespace lmhead
