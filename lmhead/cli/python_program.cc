#include "lmhead/cli/python_program.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "lmhead/base/error.h"
#include "lmhead/base/line_process.h"
#include "lmhead/cli/signals.h"

extern char** environ;

namespace lmhead {
namespace {

namespace fs = std::filesystem;

// What is left where a signal ends the process. Handlers may neither allocate nor walk a folder; they may start a
// program.
constexpr std::size_t kLongestPath = 4096;
volatile pid_t running = 0;
char scratch_folders[2][kLongestPath];

void clean_up() {
  if (const pid_t child = running; child > 0 && ::kill(child, SIGTERM) == 0) ::waitpid(child, nullptr, 0);
  for (const char* folder : scratch_folders) {
    if (folder[0] == '\0') continue;
    const pid_t remover = ::fork();
    if (remover == 0) {
      ::execl("/bin/rm", "rm", "-rf", "--", folder, nullptr);
      ::_exit(1);
    }
    if (remover > 0) ::waitpid(remover, nullptr, 0);
  }
}

}  // namespace

std::optional<fs::path> find_python_program(const std::string& program) {
  std::error_code error;
  return find_program(program, fs::read_symlink("/proc/self/exe", error).parent_path());
}

fs::path python_program(const std::string& program) {
  const auto found = find_python_program(program);
  require(found.has_value(), "lmhead", program,
          " must stand beside lmhead or on the path (scripts/setup writes it), got none");
  return *found;
}

std::string run_python_program(const std::string& program, const std::vector<std::string>& arguments) {
  const std::string found = python_program(program).string();
  std::vector<char*> all = {const_cast<char*>(found.c_str())};
  for (const std::string& argument : arguments) all.push_back(const_cast<char*>(argument.c_str()));
  all.push_back(nullptr);

  int ends[2];
  require(::pipe(ends) == 0, "lmhead", "a pipe must be there for ", program, ", got: ", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_addclose(&actions, ends[0]);
  ::posix_spawn_file_actions_addclose(&actions, ends[1]);
  call_before_ending(clean_up);
  // Python lets them through once it can end as it should.
  sigset_t held, before;
  ::sigemptyset(&held);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&held, signal);
  ::sigprocmask(SIG_BLOCK, &held, &before);
  pid_t child = 0;
  const int refused = ::posix_spawn(&child, found.c_str(), &actions, nullptr, all.data(), environ);
  if (refused == 0) running = child;
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string output;
  char block[4096];
  for (ssize_t count; refused == 0 && (count = ::read(ends[0], block, sizeof block)) != 0;) {
    if (count > 0) output.append(block, std::size_t(count));
    if (count < 0 && errno != EINTR) break;
  }
  ::close(ends[0]);
  require(refused == 0, "lmhead", found, " must be a program that runs, got: ", std::strerror(refused));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  running = 0;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw ProgramFailed{WIFEXITED(status) ? WEXITSTATUS(status) : 1};
  while (!output.empty() && output.back() == '\n') output.pop_back();
  return output;
}

ScratchFolder::ScratchFolder() {
  std::string pattern = (fs::temp_directory_path() / "lmhead-XXXXXX").string();
  require(::mkdtemp(pattern.data()) != nullptr, "lmhead",
          "a folder for temporary files must be writable, got: ", std::strerror(errno), " for ", pattern);
  path_ = pattern;
  for (char* free : scratch_folders)
    if (free[0] == '\0' && pattern.size() < kLongestPath) {
      std::memcpy(free + 1, pattern.c_str() + 1, pattern.size());
      free[0] = pattern[0];  // last, so that a handler sees it whole or not at all
      break;
    }
  call_before_ending(clean_up);
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  for (char* own : scratch_folders)
    if (path_ == own) own[0] = '\0';
}

}  // namespace lmhead
