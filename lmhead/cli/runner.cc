// The part of the command that needs libtorch: runs a native verb and turns errors into one line and an exit code.
#include <malloc.h>

#include <exception>
#include <iostream>
#include <string>

#include "lmhead/base/error.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/python_program.h"

namespace {

int dispatch(const lmhead::TrainRequest& request) { return lmhead::run_train(request); }
int dispatch(const lmhead::StudyRequest& request) { return lmhead::run_study(request); }
int dispatch(const lmhead::HeadsRequest& request) { return lmhead::run_heads(request); }
int dispatch(const lmhead::MeasureRequest& request) { return lmhead::run_measure(request); }
int dispatch(const lmhead::InspectRequest& request) { return lmhead::run_inspect(request); }
int dispatch(const lmhead::ExportRequest& request) { return lmhead::run_export(request); }
int dispatch(const lmhead::SampleRequest& request) { return lmhead::run_sample(request); }

}  // namespace

int main(int argument_count, char** arguments) {
  // Tensors of a few megabytes come and go every step. Left to itself the C library gives their pages back each time,
  // and a small model spends a tenth of its step on getting them again.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
  const lmhead::Request request = lmhead::parse_command_line(argument_count, arguments);
  try {
    return std::visit([](const auto& chosen) { return dispatch(chosen); }, request);
  } catch (const lmhead::Error& error) {
    std::cerr << error.what() << '\n';
    return 2;
  } catch (const lmhead::ProgramFailed& failed) {
    return failed.exit_code;  // it has said why
  } catch (const std::exception& error) {
    // Not one of ours: a defect, or a library's own refusal. Its first line says what, the rest is a stack.
    const std::string text = error.what();
    std::cerr << "[lmhead] an operation failed: " << text.substr(0, text.find('\n')) << '\n';
    return 1;
  }
}
