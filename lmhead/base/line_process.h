// A helper program that answers one line with one line.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lmhead {

/// The program `name` in `first` or, failing that, on the path.
std::optional<std::filesystem::path> find_program(const std::string& name, const std::filesystem::path& first);

/// A child process on the other end of its standard input and output; it ends with this object. Its messages for
/// people go where ours go.
class LineProcess {
 public:
  LineProcess(const std::filesystem::path& program, const std::vector<std::string>& arguments);
  ~LineProcess();
  LineProcess(const LineProcess&) = delete;
  LineProcess& operator=(const LineProcess&) = delete;

  /// Sends `line`, which has no line break, and waits for the answer. Throws where the program has ended.
  std::string ask(const std::string& line);

 private:
  [[noreturn]] void fail_ended() const;

  std::filesystem::path program_;
  int socket_ = -1;
  pid_t process_ = -1;
  std::string unread_;
};

}  // namespace lmhead
