// The part of the command that needs libtorch: runs a native verb and turns errors into one line and an exit code.
#include <malloc.h>

#include <exception>
#include <filesystem>
#include <iostream>
#include <string>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/python_program.h"
#include "lmhead/cli/signals.h"
#include "lmhead/cli/standard_streams.h"
#include "lmhead/train/trainer.h"

namespace {

int dispatch(const lmhead::TrainRequest& request) { return lmhead::run_train(request); }
int dispatch(const lmhead::StudyRequest& request) { return lmhead::run_study(request); }
int dispatch(const lmhead::HeadsRequest& request) { return lmhead::run_heads(request); }
int dispatch(const lmhead::MeasureRequest& request) { return lmhead::run_measure(request); }
int dispatch(const lmhead::InspectRequest& request) { return lmhead::run_inspect(request); }
int dispatch(const lmhead::ExportRequest& request) { return lmhead::run_export(request); }
int dispatch(const lmhead::SampleRequest& request) { return lmhead::run_sample(request); }

/// Says in one line, with nothing that a terminal obeys, why the command ends.
int end_with(int exit_code, const std::string& line) {
  std::cerr << lmhead::printable_text(line) << '\n';
  return exit_code;
}

/// The exit code of a verb.
int run_verb(const lmhead::Request& request) {
  try {
    return std::visit([](const auto& chosen) { return dispatch(chosen); }, request);
  } catch (const lmhead::Divergence& error) {
    return end_with(1, error.what());
  } catch (const lmhead::Error& error) {
    return end_with(2, error.what());
  } catch (const lmhead::ProgramFailed& failed) {
    return failed.exit_code;  // it has said why
  } catch (const std::filesystem::filesystem_error& error) {
    return end_with(2, "[files] " + error.path1().string() + " must be accessible, got: " + error.code().message());
  } catch (const std::exception& error) {
    const std::string text = error.what();
    if (const auto failure = lmhead::device_failure(error)) return end_with(2, *failure);
    if (lmhead::is_memory_failure(error))
      return end_with(2, "[lmhead] memory must hold what was asked for, got an allocation that failed");
    // Not one of ours: a defect, or a library's own refusal. Its first line says what, the rest is a stack.
    return end_with(1, "[lmhead] an operation failed: " + text.substr(0, text.find('\n')));
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  lmhead::prepare_standard_streams();
  lmhead::end_on_stop_signals();
  // Tensors of a few megabytes come and go every step. Left to itself the C library gives their pages back each time,
  // and a small model spends a tenth of its step on getting them again.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
  int exit_code = run_verb(lmhead::parse_command_line(argument_count, arguments));
  if (exit_code == 0 && lmhead::stop_requested()) exit_code = 130;  // it came when there was nothing left to stop
  return lmhead::finish_standard_streams(exit_code);
}
