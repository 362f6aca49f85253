#include "lmhead/run/run_child.h"

#include <ATen/Parallel.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/run/run.h"

namespace lmhead {
namespace {

constexpr auto kBetweenLines = std::chrono::milliseconds(100);
constexpr int kStopping[] = {SIGINT, SIGTERM, SIGHUP, kStopRun};

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
  std::signal(kStopRun, on_stop_signal);
  std::signal(SIGPIPE, SIG_IGN);
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

void train_and_tell(const ChildRun& run) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point told = Clock::now();
  const auto on_step = [&](const StepRecord& record) {
    if (Clock::now() - told < kBetweenLines) return;
    told = Clock::now();
    say(run.pipe, {{"step", record.step}});
  };
  try {
    const bool finished =
        run_training(run.configuration, run.folder,
                     {.on_start = [&](const RunStart& start) { say(run.pipe, {{"step", start.after_step}}); },
                      .trainer = {.on_step = on_step, .should_stop = [] { return child_stop != 0; }}});
    say(run.pipe, {{"end", finished ? "finished" : "stopped"}});
  } catch (const Divergence& error) {
    say(run.pipe, {{"end", "diverged"}, {"error", error.what()}});
  } catch (const Error& error) {
    say(run.pipe, {{"end", "failed"}, {"error", error.what()}});
  } catch (const std::exception& error) {  // behind the first line of a library's words is a stack
    say(run.pipe, {{"end", "failed"}, {"error", device_failure(error).value_or(first_line(error.what()))}});
  }
}

std::string all_of_standard_input() {
  std::string text;
  char block[4096];
  for (ssize_t count; (count = ::read(STDIN_FILENO, block, sizeof block)) != 0;) {
    if (count > 0) text.append(block, std::size_t(count));
    if (count < 0 && errno != EINTR) break;
  }
  return text;
}

}  // namespace

HeldSignals::HeldSignals() {
  sigset_t stopping;
  ::sigemptyset(&stopping);
  for (const int signal : kStopping) ::sigaddset(&stopping, signal);
  ::sigprocmask(SIG_BLOCK, &stopping, &before_);
}
HeldSignals::~HeldSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

void carry_out(const ChildRun& run, const sigset_t& through) {
  handle_child_signals();
  ::sigprocmask(SIG_SETMASK, &through, nullptr);
  ::prctl(PR_SET_PDEATHSIG, kStopRun);
  if (::getppid() != run.parent) ::_exit(1);  // it was gone before that held
  at::set_num_threads(run.threads);
  train_and_tell(run);
}

Json request_of(const ChildRun& run, const sigset_t& through) {
  std::vector<int> held;
  for (const int signal : kStopping)
    if (::sigismember(&through, signal) == 1) held.push_back(signal);
  return {{"configuration", run.configuration},
          {"folder", run.folder.string()},
          {"threads", run.threads},
          {"parent", std::int64_t(run.parent)},
          {"held", held}};
}

int carry_out_spawned_run() {
  const std::optional<Json> request = try_parse_json(all_of_standard_input());
  if (!request || !request->is_object()) return 2;
  sigset_t through;
  ::sigprocmask(SIG_SETMASK, nullptr, &through);
  for (const int signal : kStopping) ::sigdelset(&through, signal);
  for (const int signal : request->at("held")) ::sigaddset(&through, signal);
  carry_out({request->at("configuration"), request->at("folder").get<std::string>(), request->at("threads").get<int>(),
             pid_t(request->at("parent").get<std::int64_t>()), kSpawnedPipe},
            through);
  return 0;
}

}  // namespace lmhead
