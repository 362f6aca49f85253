#include "lmhead/cli/python_program.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "lmhead/base/error.h"

extern char** environ;

namespace lmhead {
namespace {

namespace fs = std::filesystem;

fs::path find_program(const std::string& program) {
  std::error_code error;
  std::vector<fs::path> folders = {fs::read_symlink("/proc/self/exe", error).parent_path()};
  const char* path = std::getenv("PATH");
  const std::string all = path ? path : "";
  for (std::size_t start = 0; start <= all.size();) {
    const std::size_t end = std::min(all.find(':', start), all.size());
    if (end > start) folders.push_back(all.substr(start, end - start));
    start = end + 1;
  }
  for (const fs::path& folder : folders)
    if (::access((folder / program).c_str(), X_OK) == 0) return folder / program;
  fail("lmhead", program, " must stand beside lmhead or on the path (scripts/setup writes it), got none");
}

}  // namespace

std::string run_python_program(const std::string& program, const std::vector<std::string>& arguments) {
  const std::string found = find_program(program).string();
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
  pid_t child = 0;
  const int refused = ::posix_spawn(&child, found.c_str(), &actions, nullptr, all.data(), environ);
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
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw ProgramFailed{WIFEXITED(status) ? WEXITSTATUS(status) : 1};
  while (!output.empty() && output.back() == '\n') output.pop_back();
  return output;
}

ScratchFolder::ScratchFolder() {
  std::string pattern = (fs::temp_directory_path() / "lmhead-XXXXXX").string();
  require(::mkdtemp(pattern.data()) != nullptr, "lmhead",
          "a folder for temporary files must be writable, got: ", std::strerror(errno), " for ", pattern);
  path_ = pattern;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace lmhead
