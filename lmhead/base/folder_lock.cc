#include "lmhead/base/folder_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "lmhead/base/descriptor.h"
#include "lmhead/base/error.h"
#include "lmhead/base/files.h"

namespace lmhead {

FolderLock::FolderLock(const std::filesystem::path& folder, std::string_view who, std::string_view does) {
  make_directory(folder);
  descriptor_ = ::open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  require(descriptor_ >= 0, who, folder.string(),
          " must be a folder that can be written to, got: ", std::strerror(errno));
  if (detail::try_lock(descriptor_)) return;
  const int error = errno;
  ::close(descriptor_);
  require(error == EWOULDBLOCK, who, folder.string(),
          " must be a folder that can be locked, got: ", std::strerror(error));
  fail(who, folder.string(), " must not be in use, got another process that ", does, " in it");
}

FolderLock::~FolderLock() { ::close(descriptor_); }

void FolderLock::sign(const std::string& text) const {
  const bool is_written = ::ftruncate(descriptor_, 0) == 0 &&
                          ::pwrite(descriptor_, text.data(), text.size(), 0) == ssize_t(text.size()) &&
                          ::fsync(descriptor_) == 0;
  require(is_written, "files", "the file .lock must be writable, got: ", std::strerror(errno));
}

bool is_signed(const std::filesystem::path& folder, const std::string& text) {
  std::ifstream file(folder / ".lock", std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {}) == text;
}

}  // namespace lmhead
