// A file that its one owner appends whole lines to.
#pragma once

#include <filesystem>
#include <string>

#include "lmhead/base/descriptor.h"

namespace lmhead {

/// Appends whole lines to a file that nobody else writes to (a run's log, under the lock of its folder); each line is
/// in the file when `append` returns. For a file of several writers there is SharedLines.
class LineLog {
 public:
  /// Makes the file where there is none; throws where the one there ends within a line, to which nothing may be
  /// appended.
  explicit LineLog(const std::filesystem::path& path);
  /// Throws where the line cannot be written whole (a full disk); nothing of it is then in the file.
  void append(const std::string& line);
  /// Waits until what was appended would survive a loss of power.
  void sync();

 private:
  std::filesystem::path path_;
  detail::Descriptor file_;
  bool name_is_durable_ = false;
};

}  // namespace lmhead
