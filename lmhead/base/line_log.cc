#include "lmhead/base/line_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "lmhead/base/descriptor.h"
#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr const char* kMustBeWhole = " must end with a whole line, got one that is cut short";

bool ends_within_a_line(int descriptor) {
  struct stat status{};
  char last = '\n';
  if (::fstat(descriptor, &status) != 0 || status.st_size == 0) return false;
  return ::pread(descriptor, &last, 1, status.st_size - 1) == 1 && last != '\n';
}

}  // namespace

LineLog::LineLog(const std::filesystem::path& path)
    : path_(path), descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) detail::fail_system("writable", path, errno);
  if (!ends_within_a_line(descriptor_)) return;
  ::close(descriptor_);
  fail("files", path.string(), kMustBeWhole);
}

LineLog::~LineLog() { ::close(descriptor_); }

void LineLog::append(const std::string& line) {
  require(!is_cut_, "files", path_.string(), kMustBeWhole);
  const std::string text = line + "\n";
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(descriptor_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int error = errno;
      take_back(done);
      detail::fail_system("writable", path_, error);
    }
    done += std::size_t(written);
  }
}

void LineLog::take_back(std::size_t written) {
  if (written == 0) return;
  // The position is behind what this process wrote last; where the file goes on, somebody else has appended.
  const off_t end = ::lseek(descriptor_, 0, SEEK_CUR);
  struct stat status{};
  is_cut_ = ::fstat(descriptor_, &status) != 0 || status.st_size != end ||
            ::ftruncate(descriptor_, end - off_t(written)) != 0;
}

void LineLog::sync() {
  if (::fsync(descriptor_) != 0) detail::fail_system("writable", path_, errno);
  if (!name_is_durable_) detail::sync_directory(path_.parent_path());
  name_is_durable_ = true;
}

}  // namespace lmhead
