#include "lmhead/base/line_process.h"

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "lmhead/base/error.h"

extern char** environ;

namespace lmhead {
namespace fs = std::filesystem;

std::optional<fs::path> find_program(const std::string& name, const fs::path& first) {
  std::vector<fs::path> folders = {first};
  const char* path = std::getenv("PATH");
  const std::string rest = path ? path : "";
  for (std::size_t start = 0; start <= rest.size();) {
    const std::size_t end = std::min(rest.find(':', start), rest.size());
    if (end > start) folders.emplace_back(rest.substr(start, end - start));
    start = end + 1;
  }
  for (const fs::path& folder : folders)
    if (fs::path program = folder / name; ::access(program.c_str(), X_OK) == 0) return program;
  return std::nullopt;
}

LineProcess::LineProcess(const fs::path& program, const std::vector<std::string>& arguments) : program_(program) {
  int ends[2];  // a socket and not two pipes: writing to a program that has ended is then an error, not a signal
  require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "process",
          "a socket must be had, got: ", std::strerror(errno));
  std::vector<std::string> texts = {program.string()};
  texts.insert(texts.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  // Ctrl-C reaches every process of the terminal's group; this one ends with its input, when it is needed no more.
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, signal);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  ::posix_spawnattr_setsigmask(&attributes, &signals);
  const int error = ::posix_spawn(&process_, program.c_str(), &actions, &attributes, pointers.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  socket_ = ends[0];
  if (error == 0) return;
  ::close(socket_);
  fail("process", program.string(), " must be a program that can be started, got: ", std::strerror(error));
}

LineProcess::~LineProcess() {
  ::close(socket_);  // the end of its input, at which it ends
  ::waitpid(process_, nullptr, 0);
}

void LineProcess::fail_ended() const { fail("process", program_.string(), " must answer, got the end of its output"); }

std::string LineProcess::ask(const std::string& line) {
  const std::string text = line + "\n";
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t count = ::send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_ended();
    sent += std::size_t(count);
  }
  while (unread_.find('\n') == std::string::npos) {
    char buffer[1 << 12];
    const ssize_t count = ::recv(socket_, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail_ended();
    unread_.append(buffer, std::size_t(count));
  }
  const std::size_t end = unread_.find('\n');
  const std::string answer = unread_.substr(0, end);
  unread_.erase(0, end + 1);
  return answer;
}

}  // namespace lmhead
