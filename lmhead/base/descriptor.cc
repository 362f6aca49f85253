#include "lmhead/base/descriptor.h"

#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lmhead/base/error.h"

namespace lmhead::detail {

namespace fs = std::filesystem;

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

void sync_directory(const fs::path& directory) {
  const Descriptor descriptor(directory.empty() ? "." : directory, O_RDONLY | O_DIRECTORY, "a readable folder");
  // EINVAL: a file system that has nothing to sync in a folder.
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) fail_system("writable", directory, errno);
}

bool try_lock(int descriptor) { return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0; }

}  // namespace lmhead::detail
