#include "lmhead/base/shared_lines.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "lmhead/base/descriptor.h"
#include "lmhead/base/error.h"
#include "lmhead/base/files.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using detail::fail_system;

std::size_t size_of(int descriptor, const fs::path& path) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail_system("readable", path, errno);
  require(S_ISREG(status.st_mode), "files", path.string(), " must be a regular file, got something else");
  return std::size_t(status.st_size);
}

/// All bytes from `start` to the end.
std::string read_from(int descriptor, std::size_t start, const fs::path& path) {
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::pread(descriptor, buffer, sizeof buffer, off_t(start + text.size()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_system("readable", path, errno);
    if (count == 0) return text;
    text.append(buffer, std::size_t(count));
  }
}

/// Where the last whole line ends.
std::size_t end_of_lines(int descriptor, const fs::path& path) {
  std::size_t end = size_of(descriptor, path);
  char buffer[1 << 12];
  while (end > 0) {
    const std::size_t part = std::min(end, sizeof buffer);
    if (::pread(descriptor, buffer, part, off_t(end - part)) != ssize_t(part)) fail_system("readable", path, errno);
    for (std::size_t index = part; index > 0; --index)
      if (buffer[index - 1] == '\n') return end - part + index;
    end -= part;
  }
  return 0;
}

}  // namespace

std::vector<std::string> SharedLines::read_new() {
  std::vector<std::string> lines;
  const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not make it wait
  if (descriptor < 0 && errno == ENOENT) return lines;
  if (descriptor < 0) fail_system("readable", path_, errno);
  try {
    const std::size_t size = size_of(descriptor, path_);
    require(size >= read_, "files", path_.string(), " must only grow while it is in use, got ", size,
            " bytes where there were ", read_);
    const std::string text = read_from(descriptor, read_, path_);
    for (std::size_t start = 0, end; (end = text.find('\n', start)) != text.npos; start = end + 1) {
      lines.push_back(text.substr(start, end - start));
      read_ += lines.back().size() + 1;
    }
  } catch (...) {
    ::close(descriptor);
    throw;
  }
  ::close(descriptor);
  return lines;
}

SharedLines::Lock::Lock(const SharedLines& lines) : path_(lines.path_) {
  if (path_.has_parent_path()) make_directory(path_.parent_path());
  is_new_ = !fs::exists(path_);
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
  if (descriptor_ < 0) fail_system("writable", path_, errno);
  try {
    int result;
    do result = ::flock(descriptor_, LOCK_EX);
    while (result != 0 && errno == EINTR);
    if (result != 0) fail_system("lockable", path_, errno);
    // Nobody writes now, so a line without its end is one that nobody will finish.
    const std::size_t end = end_of_lines(descriptor_, path_);
    if (end < size_of(descriptor_, path_) && ::ftruncate(descriptor_, off_t(end)) != 0)
      fail_system("writable", path_, errno);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

SharedLines::Lock::~Lock() { ::close(descriptor_); }

void SharedLines::append(const Lock& lock, const std::string& line) {
  const std::string text = line + "\n";
  const std::size_t start = size_of(lock.descriptor_, path_);
  std::size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    const ssize_t count = ::pwrite(lock.descriptor_, text.data() + done, text.size() - done, off_t(start + done));
    if (count > 0) done += std::size_t(count);
    else if (count == 0) error = EIO;
    else if (errno != EINTR) error = errno;
  }
  if (error == 0 && ::fsync(lock.descriptor_) != 0) error = errno;
  if (error != 0) {
    // What is left of the line where even this fails is cut off by whoever appends next.
    if (::ftruncate(lock.descriptor_, off_t(start)) != 0) error = error ? error : errno;
    fail_system("writable", path_, error);
  }
  if (lock.is_new_) detail::sync_directory(path_.parent_path());
}

}  // namespace lmhead
