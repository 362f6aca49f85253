#include "lmhead/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/base/input_file.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMostBytes = std::uintmax_t(4) << 30;  // that are read into memory at once

[[noreturn]] void fail_system(const char* must, const fs::path& path, int error) {
  fail("files", path.string(), " must be ", must, ", got: ", std::strerror(error));
}

/// A descriptor that is closed on every way out.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, const char* must)
      : value_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (value_ < 0) fail_system(must, path, errno);
  }
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  /// Closes now, so that a late write error (a full network disk) is seen.
  void close(const fs::path& path) {
    if (::close(std::exchange(value_, -1)) != 0) fail_system("writable", path, errno);
  }

 private:
  int value_;
};

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

/// A rename is durable only once its directory is.
void sync_directory(const fs::path& directory) {
  Descriptor descriptor(directory.empty() ? "." : directory, O_RDONLY | O_DIRECTORY, "a readable folder");
  ::fsync(descriptor.get());
}

}  // namespace

std::string read_file(const fs::path& path) { return InputFile(path).read(kMostBytes); }

void replace_file_atomic(const fs::path& path,
                         const std::function<void(const std::function<void(const void*, std::size_t)>&)>& write) {
  const fs::path temporary = path.string() + ".tmp" + std::to_string(::getpid());
  try {
    Descriptor descriptor(temporary, O_WRONLY | O_CREAT | O_TRUNC, "writable");
    write([&](const void* data, std::size_t size) { write_all(descriptor.get(), data, size, temporary); });
    if (::fsync(descriptor.get()) != 0) fail_system("writable", temporary, errno);
    descriptor.close(temporary);
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_system("replaceable", path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path.parent_path());
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  replace_file_atomic(path, [&](const auto& write) { write(content.data(), content.size()); });
}

void replace_directory_atomic(const fs::path& path, const std::function<void(const fs::path&)>& fill) {
  const fs::path temporary = path.string() + ".tmp" + std::to_string(::getpid());
  const fs::path old = path.string() + ".old" + std::to_string(::getpid());
  std::error_code ignored;
  try {
    fs::remove_all(temporary, ignored);
    make_directory(temporary);
    fill(temporary);
    sync_directory(temporary);
    if (fs::exists(path) && ::rename(path.c_str(), old.c_str()) != 0) fail_system("replaceable", path, errno);
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_system("replaceable", path, errno);
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  sync_directory(path.parent_path());
  fs::remove_all(old, ignored);
}

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail_system("a folder that can be made", path, error.value());
}

LineLog::LineLog(const fs::path& path)
    : path_(path), descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail_system("writable", path, errno);
}

LineLog::~LineLog() { ::close(descriptor_); }

void LineLog::append(const std::string& line) {
  const std::string text = line + "\n";
  write_all(descriptor_, text.data(), text.size(), path_);
}

void LineLog::sync() {
  if (::fsync(descriptor_) != 0) fail_system("writable", path_, errno);
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  const InputFile file(path);
  const auto size = std::size_t(file.size());
  void* data = nullptr;
  if (size > 0) {
    data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor(), 0);
    if (data == MAP_FAILED) fail_system("mappable", path, errno);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace lmhead
