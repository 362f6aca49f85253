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
#include "lmhead/base/input_file.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using detail::fail_system;

constexpr std::uintmax_t kMost = std::uintmax_t(4) << 30;  // bytes that are read at once

std::size_t size_of(int descriptor, const fs::path& path) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail_system("readable", path, errno);
  require(S_ISREG(status.st_mode), "files", path.string(), " must be a regular file, got something else");
  return std::size_t(status.st_size);
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
  struct stat status{};
  if (::lstat(path_.c_str(), &status) != 0 && errno == ENOENT) return lines;
  const InputFile file(path_);
  require(file.size() >= read_, "files", path_.string(), " must only grow while it is in use, got ", file.size(),
          " bytes where there were ", read_);
  const std::string text = file.read(kMost, read_);
  for (std::size_t start = 0, end; (end = text.find('\n', start)) != text.npos; start = end + 1) {
    lines.push_back(text.substr(start, end - start));
    read_ += lines.back().size() + 1;
  }
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
  detail::append_line(lock.descriptor_, line, path_, /*durable=*/true);
  if (lock.is_new_) detail::sync_directory(path_.parent_path());
}

}  // namespace lmhead
