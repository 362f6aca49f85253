#include "lmhead/run/run_processes.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/run/run.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr int kWaitMilliseconds = 100;

/// How this process asks a child to stop. What stops a whole group of processes (Ctrl-C, a terminal that closes, a
/// batch system) comes to the children too, and must not be a second time from here.
constexpr int kStopSignal = SIGUSR1;

volatile std::sig_atomic_t child_stop = 0;

void on_stop_signal(int) { child_stop = 1; }

void on_group_signal(int signal) {
  child_stop = 1;
  std::signal(signal, SIG_DFL);  // a second one ends the child at once
}

void handle_child_signals() {
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, on_group_signal);
  struct sigaction hangup{};
  if (::sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN)  // nohup means it
    std::signal(SIGHUP, on_group_signal);
  std::signal(kStopSignal, on_stop_signal);
  std::signal(SIGPIPE, SIG_IGN);
}

std::size_t count_threads() {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/task")) count += !entry.path().empty();
  return count;
}

/// The child's end of the pipe. Lines are short enough to be written whole.
void say(int pipe, const Json& line) {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t count = ::write(pipe, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;  // nobody reads any more; the run folder has everything
    done += std::size_t(count);
  }
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// All that a child does.
void train_and_tell(const Json& configuration, const fs::path& folder, int pipe) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point told = Clock::now();
  const auto on_step = [&](const StepRecord& record) {
    if (Clock::now() - told < std::chrono::milliseconds(kWaitMilliseconds)) return;
    told = Clock::now();
    say(pipe, {{"step", record.step}});
  };
  try {
    const bool finished =
        run_training(configuration, folder,
                     {.on_start = [&](const RunStart& start) { say(pipe, {{"step", start.after_step}}); },
                      .trainer = {.on_step = on_step, .should_stop = [] { return child_stop != 0; }}});
    say(pipe, {{"end", finished ? "finished" : "stopped"}});
  } catch (const Divergence& error) {
    say(pipe, {{"end", "diverged"}, {"error", error.what()}});
  } catch (const Error& error) {
    say(pipe, {{"end", "failed"}, {"error", error.what()}});
  } catch (const std::exception& error) {  // behind the first line of a library's words is a stack
    say(pipe, {{"end", "failed"}, {"error", device_failure(error).value_or(first_line(error.what()))}});
  }
}

}  // namespace

RunEnd run_end_named(const std::string& name) {
  return name == "finished"   ? RunEnd::kFinished
         : name == "stopped"  ? RunEnd::kStopped
         : name == "diverged" ? RunEnd::kDiverged
                              : RunEnd::kFailed;
}

RunProcesses::RunProcesses(std::optional<int> threads, std::vector<std::string> devices)
    : threads_(threads.value_or(at::get_num_threads())), devices_(std::move(devices)) {
  at::set_num_threads(1);
  require(count_threads() == 1, "study", "runs must be started before this process has threads of its own, got ",
          count_threads(), " threads");
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
  Json configuration = given;
  if (!device.empty()) configuration["training"]["device"] = device;
  int ends[2];
  require(::pipe2(ends, O_CLOEXEC) == 0, "study", "a pipe must be made, got: ", std::strerror(errno));
  // A signal between the fork and the child's own handlers would be lost.
  sigset_t stopping, before;
  ::sigemptyset(&stopping);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, kStopSignal}) ::sigaddset(&stopping, signal);
  ::sigprocmask(SIG_BLOCK, &stopping, &before);
  const pid_t parent = ::getpid();
  const pid_t process = ::fork();
  const int error = errno;
  if (process != 0) ::sigprocmask(SIG_SETMASK, &before, nullptr);
  if (process < 0) {
    ::close(ends[0]);
    ::close(ends[1]);
    fail("study", "a process must be made, got: ", std::strerror(error));
  }
  if (process == 0) {
    ::close(ends[0]);
    for (const Child& other : children_) ::close(other.pipe);
    handle_child_signals();
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    ::prctl(PR_SET_PDEATHSIG, kStopSignal);
    if (::getppid() != parent) ::_exit(1);  // it was gone before that held
    at::set_num_threads(threads_);
    train_and_tell(configuration, folder, ends[1]);
    ::_exit(0);  // the parent's objects are not the child's to destroy
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
  for (const Child& child : children_) ::kill(child.process, kStopSignal);
}

}  // namespace lmhead
