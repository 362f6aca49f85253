// The native command as a function: for the runner, and for a process of Python that has a process group.
#pragma once

#include <string>

#include "lmhead/processes/processes.h"

namespace lmhead {

/// How a command ended.
struct CommandEnd {
  int exit_code = 0;
  std::string failure;   // of several processes: the line that says why, which nobody has printed yet
  bool is_lost = false;  // it says that another process is gone
};

/// Carries out a native verb, with the signals and standard streams of this process. Of several processes, which only
/// `train` takes, the first alone prints; what made the command fail is left to the caller, who knows which processes
/// are left.
CommandEnd run_command(int argument_count, char** arguments, const Processes& processes);

}  // namespace lmhead
