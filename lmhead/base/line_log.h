// Files that whole lines are appended to.
#pragma once

#include <filesystem>
#include <string>

namespace lmhead {

/// Appends whole lines to a file; each line is in the file when `append` returns.
class LineLog {
 public:
  /// Makes the file where there is none; throws where the one there ends within a line, to which nothing may be
  /// appended.
  explicit LineLog(const std::filesystem::path& path);
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;
  /// Throws where the line cannot be written whole (a full disk); nothing of it is then in the file.
  void append(const std::string& line);
  /// Waits until what was appended would survive a loss of power.
  void sync();

 private:
  void take_back(std::size_t written);
  std::filesystem::path path_;
  int descriptor_;
  bool name_is_durable_ = false, is_cut_ = false;
};

}  // namespace lmhead
