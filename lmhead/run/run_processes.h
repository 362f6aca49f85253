// Training runs in child processes, several at once; an exception or a crash of one costs that one alone.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/options.h"

namespace lmhead {

enum class RunEnd { kFinished, kStopped, kDiverged, kFailed };
/// Of "finished", "stopped", "diverged"; anything else has failed.
RunEnd run_end_named(const std::string& name);

struct RunEvent {
  std::size_t ticket;         // as `start` got it
  std::optional<RunEnd> end;  // nothing: the run goes on
  std::int64_t step = 0;      // that was just done; where a run has just started, the step it started after
  std::string error;          // one line, where it diverged or failed
};

/// Carries out runs; what does it is the implementation's affair, so that tests need no processes.
class RunWorkers {
 public:
  virtual ~RunWorkers() = default;
  virtual void start(std::size_t ticket, const Json& configuration, const std::filesystem::path& folder) = 0;
  /// Waits for something to happen, a fraction of a second at most; nothing where nothing did.
  virtual std::vector<RunEvent> wait() = 0;
  /// Asks every run to save a checkpoint and end.
  virtual void stop() = 0;
};

/// What a run's configuration says of where it computes.
std::string device_of_run(const Json& configuration);

/// A child for every run: forked, which costs milliseconds where a new process would load libtorch first; for a run on
/// another device than the CPU, or one of `devices`, a new process of `program`, because a forked child cannot use a
/// CUDA that its parent has opened.
///
/// `threads` is what a run uses whose configuration leaves that open; nothing: as many as libtorch would use here. This
/// process itself is set to one thread, so that it never has a pool that a forked child would lack. A child saves and
/// ends where it gets SIGINT, SIGTERM or SIGHUP (unless that is ignored here), and where this process is gone. With
/// `devices` no more runs go on at once than there are of them, each on one that no other has, whatever its
/// configuration says.
class RunProcesses : public RunWorkers {
 public:
  /// `program` takes `kSpawnedRun` (run_child.h). Throws where there are no `devices` and this process has more than
  /// one thread already.
  explicit RunProcesses(std::optional<int> threads, std::vector<std::string> devices = {},
                        std::filesystem::path program = {});
  /// Waits for children that are still there, after asking them to stop.
  ~RunProcesses() override;
  RunProcesses(const RunProcesses&) = delete;
  RunProcesses& operator=(const RunProcesses&) = delete;

  void start(std::size_t ticket, const Json& configuration, const std::filesystem::path& folder) override;
  std::vector<RunEvent> wait() override;
  void stop() override;

 private:
  struct Child {
    std::size_t ticket;
    pid_t process;
    int pipe;  // lines of JSON, from the child
    std::string unread;
    std::optional<RunEvent> last;  // what the child said of its end
    std::string device;            // of `devices`
  };
  std::string free_device() const;
  void read_lines(Child& child, std::vector<RunEvent>& events);
  RunEvent ended(Child& child);

  int threads_;
  std::vector<std::string> devices_;
  std::filesystem::path program_;
  std::vector<Child> children_;
};

}  // namespace lmhead
