// Training runs that a program carries out, wherever it likes: it answers one line of JSON with one.
//
// {"open": ADDRESS, "folder": STUDY}, {"start": TICKET, "configuration": {...}, "folder": RUN}, {"wait": SECONDS} and
// {"stop": true}. An answer has "error", one line, where the request cannot be met; that to `wait` has "events", a list
// of {"ticket", "step"} and {"ticket", "end": finished, stopped, diverged or failed, "error"}.
#pragma once

#include <filesystem>
#include <string>

#include "lmhead/base/line_process.h"
#include "lmhead/run/run_processes.h"

namespace lmhead {

class ProgramWorkers : public RunWorkers {
 public:
  /// `address` is where the program finds its machines; `folder` is the study's, below which all runs lie. Throws what
  /// the program says of an address that does not work.
  ProgramWorkers(const std::filesystem::path& program, const std::string& address, const std::filesystem::path& folder);

  void start(std::size_t ticket, const Json& configuration, const std::filesystem::path& folder) override;
  std::vector<RunEvent> wait() override;
  void stop() override;

 private:
  Json ask(const Json& request);

  LineProcess process_;
};

}  // namespace lmhead
