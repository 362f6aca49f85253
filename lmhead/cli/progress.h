// What a person sees of a long run: one live line on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "lmhead/train/trainer.h"

namespace lmhead {

class Progress {
 public:
  /// `prefix` opens every line, such as the run's name in a study.
  Progress(std::string prefix, std::int64_t first_step, std::int64_t steps);
  void show(const StepRecord& record);
  /// Ends the live line, so that what is printed next stands on its own.
  void finish();

 private:
  std::string prefix_;
  std::int64_t first_step_, steps_;
  bool live_;
  bool line_open_ = false;
  std::string validation_;
  std::chrono::steady_clock::time_point start_, last_shown_;
};

/// 75 -> "1:15", 3700 -> "1:01:40".
std::string format_duration(double seconds);

/// True once Ctrl-C was pressed (or SIGTERM came); a second Ctrl-C ends the process at once.
bool stop_requested();
void install_stop_handler();

}  // namespace lmhead
