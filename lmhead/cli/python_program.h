// Runs the small programs that the Python side provides: lmhead-tokenize, lmhead-fetch, lmhead-measurement-report.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lmhead {

/// `program` beside this executable or on the path.
std::optional<std::filesystem::path> find_python_program(const std::string& program);
/// The same; throws where it is neither.
std::filesystem::path python_program(const std::string& program);

/// Runs `program`, found beside this executable or on the path, without a shell, and returns what it wrote to its
/// standard output, less the last line end; its standard error goes to ours. It ends with this process where that is
/// stopped. Throws where it is not found, and where it
/// fails, having said why itself.
std::string run_python_program(const std::string& program, const std::vector<std::string>& arguments);

/// Thrown when a program failed that has printed its own reason; carries its exit code.
struct ProgramFailed {
  int exit_code;
};

/// A folder for what passes between programs; removed with everything in it, of two at a time also where a signal ends
/// the process.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace lmhead
