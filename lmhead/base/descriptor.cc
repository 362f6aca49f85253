#include "lmhead/base/descriptor.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lmhead/base/error.h"

namespace lmhead::detail {

namespace fs = std::filesystem;

namespace {

off_t size_of(int descriptor, const fs::path& path) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail_system("readable", path, errno);
  return status.st_size;
}

}  // namespace

void fail_system(const char* must, const fs::path& path, int error) {
  fail("files", path.string(), " must be ", must, ", got: ", std::strerror(error));
}

Descriptor::Descriptor(const fs::path& path, int flags, const char* must)
    : value_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
  if (value_ < 0) fail_system(must, path, errno);
}

Descriptor::~Descriptor() { ::close(value_); }

void write_all(int descriptor, const void* data, std::size_t size, const fs::path& path) {
  auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_system("writable", path, errno);
    bytes += written;
    size -= std::size_t(written);
  }
}

void append_line(int descriptor, const std::string& line, const fs::path& path, bool durable) {
  const std::string text = line + "\n";
  const off_t start = size_of(descriptor, path);
  std::size_t done = 0;
  int error = 0;
  while (done < text.size() && error == 0) {
    const ssize_t count = ::pwrite(descriptor, text.data() + done, text.size() - done, start + off_t(done));
    if (count > 0) done += std::size_t(count);
    else if (count == 0) error = EIO;
    else if (errno != EINTR) error = errno;
  }
  if (error == 0 && durable && ::fsync(descriptor) != 0) error = errno;
  if (error == 0) return;
  // Where not even this can be done, a line without its end is what the next to append finds.
  [[maybe_unused]] const int result = ::ftruncate(descriptor, start);
  fail_system("writable", path, error);
}

bool ends_within_a_line(int descriptor, const fs::path& path) {
  const off_t size = size_of(descriptor, path);
  char last = '\n';
  return size > 0 && ::pread(descriptor, &last, 1, size - 1) == 1 && last != '\n';
}

void sync_directory(const fs::path& directory) {
  const Descriptor descriptor(directory.empty() ? "." : directory, O_RDONLY | O_DIRECTORY, "a readable folder");
  // EINVAL: a file system that has nothing to sync in a folder.
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail_system("writable", directory, errno);
}

bool try_lock(int descriptor) { return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0; }

}  // namespace lmhead::detail
