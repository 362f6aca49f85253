// A file of lines that several processes append to and read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace lmhead {

/// Reads a file line by line as it grows, and appends to it. Every line is whole: what a killed process or a full disk
/// left of one is no line to a reader, and is cut off by the next to append.
class SharedLines {
 public:
  explicit SharedLines(std::filesystem::path path) : path_(std::move(path)) {}

  /// The whole lines that were added since the last call, by whomever; none where there is no file. Throws where it is
  /// no regular file, cannot be read, or has become shorter than what was read.
  std::vector<std::string> read_new();

  /// Whoever holds this is the only one that appends. Makes the file, and its folder, where there is none; waits for
  /// another holder. Throws where the file cannot be written to.
  class Lock {
   public:
    explicit Lock(const SharedLines& lines);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    friend class SharedLines;
    const std::filesystem::path& path_;
    int descriptor_;
    bool is_new_;
  };
  /// Appends a line, which would survive a loss of power when this returns. Throws where it cannot; then nothing of it
  /// is left in the file.
  void append(const Lock& lock, const std::string& line);

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::size_t read_ = 0;  // bytes
};

}  // namespace lmhead
