#include "lmhead/base/files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "lmhead/base/descriptor.h"
#include "lmhead/base/error.h"
#include "lmhead/base/input_file.h"

namespace lmhead {

namespace fs = std::filesystem;
using detail::Descriptor;
using detail::fail_system;

constexpr std::uintmax_t kMostBytes = std::uintmax_t(4) << 30;  // that are read into memory at once

std::string read_file(const fs::path& path) { return InputFile(path).read(kMostBytes); }

void make_directory(const fs::path& path) {
  std::error_code error;
  std::vector<fs::path> parents;  // of what is to be made
  for (fs::path at = path.lexically_normal(); !at.empty() && !fs::exists(at, error); at = at.parent_path())
    parents.push_back(at.parent_path());
  fs::create_directories(path, error);
  if (error) fail_system("a folder that can be made", path, error.value());
  for (const fs::path& parent : parents) detail::sync_directory(parent);
}

}  // namespace lmhead
