// What a child process that carries out one training run does, and how it tells of it.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "lmhead/base/options.h"

namespace lmhead {

/// How the parent asks a child to stop. What stops a whole group of processes (Ctrl-C, a terminal that closes, a
/// batch system) comes to the children too, and must not be a second time from the parent.
constexpr int kStopRun = SIGUSR1;

/// While this lives no signal that stops a run comes through: one between a child's beginning and its own handlers
/// would be lost.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
  /// What came through before, for the child.
  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_;
};

struct ChildRun {
  Json configuration;
  std::filesystem::path folder;
  int threads;
  pid_t parent;  // the run stops where that is gone
  int pipe;      // lines of JSON go there: {"step"}, and at the end {"end", "error"}
};

/// Trains, having let the signals of `through` pass alone.
void carry_out(const ChildRun& run, const sigset_t& through);

/// The argument with which this program is such a child: its standard input says what to carry out, and file 3 is the
/// pipe.
inline constexpr const char* kSpawnedRun = "--spawned-run";
constexpr int kSpawnedPipe = 3;

/// What stands in a spawned child's standard input.
Json request_of(const ChildRun& run, const sigset_t& through);
/// The exit code of such a child.
int carry_out_spawned_run();

}  // namespace lmhead
