// What a person sees of a long run: one live line on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "lmhead/measure/measurement.h"
#include "lmhead/train/trainer.h"

namespace lmhead {

/// One line that is written over on a terminal; elsewhere a line every ten seconds keeps a log short.
class LiveLine {
 public:
  LiveLine();
  ~LiveLine() { finish(); }
  LiveLine(const LiveLine&) = delete;
  LiveLine& operator=(const LiveLine&) = delete;
  /// Whether it is time for another line.
  bool is_due() const;
  void write(std::string line);
  /// Ends the live line, so that what is printed next stands on its own.
  void finish();
  double seconds() const;  // since it was made
  bool is_live() const { return live_; }

 private:
  bool live_, line_open_ = false;
  std::chrono::steady_clock::time_point start_, last_shown_;
};

/// What a measurement does: layer, tokens, time left and speeds while features are computed, else the figure's name.
class MeasurementLine {
 public:
  explicit MeasurementLine(std::string prefix) : prefix_(std::move(prefix)) {}
  void show(const MeasurementState& state);

 private:
  std::string prefix_, doing_;
  LiveLine line_;
};

class Progress {
 public:
  /// `prefix` opens every line, such as the run's name in a study.
  Progress(std::string prefix, std::int64_t first_step, std::int64_t steps);
  void show(const StepRecord& record);
  /// Ends the live line, so that what is printed next stands on its own.
  void finish() { line_.finish(); }

 private:
  std::string prefix_;
  std::int64_t first_step_, steps_;
  std::string loss_, validation_;  // the newest that are known
  LiveLine line_;
};

/// 75 -> "1:15", 3700 -> "1:01:40".
std::string format_duration(double seconds);

}  // namespace lmhead
