// One process at a time in a folder.
#pragma once

#include <filesystem>
#include <string>
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
  /// Writes `text` into the file, by which others know that they see the same folder.
  void sign(const std::string& text) const;
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// Whether the folder's lock was signed with `text`.
bool is_signed(const std::filesystem::path& folder, const std::string& text);

}  // namespace lmhead
