// The part of the command that needs libtorch: runs a native verb and turns errors into one line and an exit code.
#include "lmhead/cli/command.h"

#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/python_program.h"
#include "lmhead/cli/signals.h"
#include "lmhead/cli/standard_streams.h"
#include "lmhead/run/run_child.h"
#include "lmhead/train/trainer.h"

namespace lmhead {
namespace {

int dispatch(const TrainRequest& request, const Processes& processes) { return run_train(request, processes); }
int dispatch(const PlanRequest& request, const Processes&) { return run_plan(request); }
int dispatch(const StudyRequest& request, const Processes&) { return run_study(request); }
int dispatch(const HeadsRequest& request, const Processes&) { return run_heads(request); }
int dispatch(const MeasureRequest& request, const Processes&) { return run_measure(request); }
int dispatch(const InspectRequest& request, const Processes&) { return run_inspect(request); }
int dispatch(const ExportRequest& request, const Processes&) { return run_export(request); }
int dispatch(const SampleRequest& request, const Processes&) { return run_sample(request); }

CommandEnd run_verb(const Request& request, const Processes& processes) {
  try {
    require(processes.alone() || std::holds_alternative<TrainRequest>(request), "lmhead",
            "a verb other than train must run in one process, got ", processes.size());
    return {std::visit([&](const auto& chosen) { return dispatch(chosen, processes); }, request)};
  } catch (const Divergence& error) {
    return {1, error.what()};
  } catch (const ProcessLost& error) {
    return {1, error.what(), true};
  } catch (const Error& error) {
    return {2, error.what()};
  } catch (const ProgramFailed& failed) {
    return {failed.exit_code};  // it has said why
  } catch (const std::filesystem::filesystem_error& error) {
    return {2, "[files] " + error.path1().string() + " must be accessible, got: " + error.code().message()};
  } catch (const std::exception& error) {
    const std::string text = error.what();
    if (const auto failure = device_failure(error)) return {2, *failure};
    if (is_memory_failure(error))
      return {2, "[lmhead] memory must hold what was asked for, got an allocation that failed"};
    // Not one of ours: a defect, or a library's own refusal. Its first line says what, the rest is a stack.
    return {1, "[lmhead] an operation failed: " + text.substr(0, text.find('\n'))};
  }
}

/// Tensors of a few megabytes come and go every step. Left to itself the C library gives their pages back each time,
/// and a small model spends a tenth of its step on getting them again.
void keep_freed_memory() {
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, int(kMostKept));
}

}  // namespace

CommandEnd run_command(int argument_count, char** arguments, const Processes& processes) {
  if (argument_count == 2 && std::string_view(arguments[1]) == kSpawnedRun) {  // before any signal gets through
    keep_freed_memory();
    return {carry_out_spawned_run()};
  }
  prepare_standard_streams();
  end_on_stop_signals();
  keep_freed_memory();
  CommandEnd end;
  try {
    end = run_verb(parse_command_line(argument_count, arguments, processes.is_first()), processes);
  } catch (const CommandLineEnd& nothing_to_run) {
    end.exit_code = nothing_to_run.exit_code;
  }
  if (end.exit_code == 0 && stop_requested()) end.exit_code = 130;  // it came when there was nothing left to stop
  // In one line, with nothing that a terminal obeys.
  if (!end.failure.empty() && processes.alone()) std::cerr << printable_text(end.failure) << '\n';
  end.exit_code = finish_standard_streams(end.exit_code);
  return end;
}

}  // namespace lmhead

/// For Python, which has made the group: the exit code. `failure`, of so many bytes, receives the line that nobody has
/// printed yet, and `is_lost` whether it says that another process is gone.
extern "C" int lmhead_command(int argument_count, char** arguments, const char* group, int rank, int size,
                              char* failure, int bytes, int* is_lost) {
  const lmhead::Processes processes = size > 1 ? lmhead::Processes(group, rank, size) : lmhead::Processes();
  const lmhead::CommandEnd end = lmhead::run_command(argument_count, arguments, processes);
  if (size > 1) {
    std::string line = lmhead::printable_text(end.failure);
    line.resize(std::min<std::size_t>(line.size(), std::size_t(bytes) - 1));
    line.resize(lmhead::first_malformed_byte(line));  // the last character may be cut in two
    std::memcpy(failure, line.c_str(), line.size() + 1);
    *is_lost = end.is_lost ? 1 : 0;
  }
  return end.exit_code;
}
