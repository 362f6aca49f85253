#include "lmhead/run/run_processes.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/run/run_child.h"

extern char** environ;

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr int kWaitMilliseconds = 100;

std::size_t count_threads() {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/task")) count += !entry.path().empty();
  return count;
}

/// A forked child, in which this returns 0.
pid_t fork_child() {
  const pid_t process = ::fork();
  require(process >= 0, "study", "a process must be made, got: ", std::strerror(errno));
  return process;
}

/// `program` as a child that finds `request` in its standard input, and the pipe where it looks for it.
pid_t spawn_child(const fs::path& program, const std::string& request, int pipe) {
  const int file = ::memfd_create("lmhead-run", MFD_CLOEXEC);
  require(file >= 0 && ::write(file, request.data(), request.size()) == ssize_t(request.size()) &&
              ::lseek(file, 0, SEEK_SET) == 0,
          "study", "a run's configuration must be handed on, got: ", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, file, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, pipe, kSpawnedPipe);
  std::string path = program.string(), verb = kSpawnedRun;
  char* arguments[] = {path.data(), verb.data(), nullptr};
  pid_t process = 0;
  const int refused = ::posix_spawn(&process, path.c_str(), &actions, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(file);
  require(refused == 0, "study", path, " must be a program that runs, got: ", std::strerror(refused));
  return process;
}

}  // namespace

RunEnd run_end_named(const std::string& name) {
  return name == "finished"   ? RunEnd::kFinished
         : name == "stopped"  ? RunEnd::kStopped
         : name == "diverged" ? RunEnd::kDiverged
                              : RunEnd::kFailed;
}

std::string device_of_run(const Json& configuration) {
  static const Json::json_pointer kDevice("/training/device");
  const bool is_named = configuration.contains(kDevice) && configuration.at(kDevice).is_string();
  return is_named ? configuration.at(kDevice).get<std::string>() : "cpu";
}

RunProcesses::RunProcesses(std::optional<int> threads, std::vector<std::string> devices, fs::path program)
    : threads_(threads.value_or(at::get_num_threads())), devices_(std::move(devices)), program_(std::move(program)) {
  at::set_num_threads(1);
  require(!devices_.empty() || count_threads() == 1, "study",
          "runs must be started before this process has threads of its own, got ", count_threads(), " threads");
}

RunProcesses::~RunProcesses() {
  stop();
  for (Child& child : children_) {
    while (::waitpid(child.process, nullptr, 0) < 0 && errno == EINTR) {
    }
    ::close(child.pipe);
  }
}

std::string RunProcesses::free_device() const {
  for (const std::string& device : devices_)
    if (std::ranges::find(children_, device, &Child::device) == children_.end()) return device;
  require(devices_.empty(), "study", "runs at once must be at most the ", devices_.size(), " devices, got one more");
  return "";
}

void RunProcesses::start(std::size_t ticket, const Json& given, const fs::path& folder) {
  const std::string device = free_device();
  ChildRun run{given, folder, threads_, ::getpid()};
  if (!device.empty()) run.configuration["training"]["device"] = device;
  const bool is_spawned = !device.empty() || device_of_run(run.configuration) != "cpu";
  int ends[2];
  require(::pipe2(ends, O_CLOEXEC) == 0, "study", "a pipe must be made, got: ", std::strerror(errno));
  run.pipe = ends[1];
  pid_t process = 0;
  try {
    const HeldSignals held;
    process = is_spawned ? spawn_child(program_, request_of(run, held.before()).dump(), run.pipe) : fork_child();
    if (process == 0) {
      ::close(ends[0]);
      for (const Child& other : children_) ::close(other.pipe);
      carry_out(run, held.before());
      ::_exit(0);  // the parent's objects are not the child's to destroy
    }
  } catch (...) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw;
  }
  ::close(ends[1]);
  children_.push_back({ticket, process, ends[0], "", std::nullopt, device});
}

void RunProcesses::read_lines(Child& child, std::vector<RunEvent>& events) {
  for (std::size_t end; (end = child.unread.find('\n')) != std::string::npos; child.unread.erase(0, end + 1)) {
    const Json line = try_parse_json(child.unread.substr(0, end)).value_or(Json());
    if (!line.is_object()) continue;
    if (line.contains("end"))
      child.last = RunEvent{child.ticket, run_end_named(line["end"].get<std::string>()), 0, line.value("error", "")};
    else events.push_back({child.ticket, std::nullopt, line.value("step", std::int64_t(0)), ""});
  }
}

RunEvent RunProcesses::ended(Child& child) {
  int status = 0;
  while (::waitpid(child.process, &status, 0) < 0 && errno == EINTR) {
  }
  ::close(child.pipe);
  if (child.last) return *child.last;
  std::string how = "its process ended before it was done";
  if (WIFSIGNALED(status)) how = std::string("its process was ended: ") + ::strsignal(WTERMSIG(status));
  return {child.ticket, RunEnd::kFailed, 0, "[study] a run must end by itself, got: " + how};
}

std::vector<RunEvent> RunProcesses::wait() {
  std::vector<RunEvent> events;
  std::vector<pollfd> pipes;
  for (const Child& child : children_) pipes.push_back({child.pipe, POLLIN, 0});
  if (::poll(pipes.data(), nfds_t(pipes.size()), kWaitMilliseconds) <= 0) return events;
  std::vector<Child> going;
  for (std::size_t index = 0; index < children_.size(); ++index) {
    Child& child = children_[index];
    bool open = true;
    if (pipes[index].revents != 0) {
      char buffer[4096];
      const ssize_t count = ::read(child.pipe, buffer, sizeof buffer);
      if (count > 0) child.unread.append(buffer, std::size_t(count));
      read_lines(child, events);
      open = count > 0 || (count < 0 && errno == EINTR);
    }
    if (open) going.push_back(std::move(child));
    else events.push_back(ended(child));
  }
  children_ = std::move(going);
  return events;
}

void RunProcesses::stop() {
  for (const Child& child : children_) ::kill(child.process, kStopRun);
}

}  // namespace lmhead
