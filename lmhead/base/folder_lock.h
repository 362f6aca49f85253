// One process at a time in a folder.
#pragma once

#include <filesystem>
#include <string_view>

namespace lmhead {

/// Held by the process that works in a folder, through the file `.lock` in there; gone with the process, however that
/// ends.
class FolderLock {
 public:
  /// Makes the folder where there is none. Throws in the name of `who` where it cannot be written to, or where another
  /// process holds it: `got another process that DOES in it`.
  FolderLock(const std::filesystem::path& folder, std::string_view who, std::string_view does);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace lmhead
