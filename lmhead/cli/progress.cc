#include "lmhead/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "lmhead/base/memory.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string format(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<long long>(seconds + 0.5);
  char text[48];
  if (whole >= 3600) std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  else std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  return text;
}

LiveLine::LiveLine()
    : live_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      last_shown_(start_ - (live_ ? std::chrono::hours(1) : std::chrono::hours(0))) {}

bool LiveLine::is_due() const {
  // On a terminal ten times a second is enough for the eye.
  const auto pause = live_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10);
  return std::chrono::steady_clock::now() - last_shown_ >= pause;
}

void LiveLine::write(std::string line) {
  last_shown_ = std::chrono::steady_clock::now();
  line = printable_text(line);
  if (!live_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  line = line.substr(0, terminal_width() - 1);
  line.resize(first_malformed_byte(line));  // the last character may be cut in two
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  std::fflush(stderr);
  line_open_ = true;
}

void LiveLine::finish() {
  if (line_open_) std::fprintf(stderr, "\n");
  line_open_ = false;
}

double LiveLine::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void MeasurementLine::show(const MeasurementState& state) {
  // A figure may take long after it was named: what is running must not be hidden by what was there just before.
  const bool is_new = state.finishing && state.doing != doing_ && line_.is_live();
  doing_ = state.doing;
  if (!is_new && !line_.is_due()) return;
  const double seconds = std::max(line_.seconds(), 1e-9), speed = state.done / seconds;
  // Most important first: a narrow terminal cuts the end.
  std::string line = prefix_;
  if (!state.doing.empty()) line += state.doing + "  ";
  else if (state.layers > 0) line += "layer " + std::to_string(state.layer) + "/" + std::to_string(state.layers) + "  ";
  line += std::to_string(std::int64_t(state.done)) + "/" + std::to_string(state.of) + " tokens";
  if (speed > 0 && state.done < double(state.of))
    line += "  left " + format_duration((double(state.of) - state.done) / speed);
  line += "  " + format("%.0f", speed) + " tokens/s";
  if (state.bytes_read > 0) line += "  " + format_bytes(double(state.bytes_read) / seconds) + "/s";
  line_.write(line);
}

Progress::Progress(std::string prefix, std::int64_t first_step, std::int64_t steps)
    : prefix_(std::move(prefix)), first_step_(first_step), steps_(steps) {}

void Progress::show(const StepRecord& record) {
  const bool last = record.step == steps_, first = record.step == first_step_ + 1;
  if (record.loss) loss_ = format("%.4f", *record.loss);
  if (record.validation) validation_ = "  valid " + format("%.4f", record.validation->loss);
  if (!last && !first && !record.validation && !line_.is_due()) return;
  const double left = line_.seconds() / double(record.step - first_step_) * double(steps_ - record.step);
  // Most important first: a narrow terminal cuts the end.
  line_.write(prefix_ + "step " + std::to_string(record.step) + "/" + std::to_string(steps_) + "  loss " + loss_ +
              validation_ + "  left " + format_duration(left) + "  " + format("%.0f", record.tokens_per_second) +
              " tokens/s  lr " + format("%.2e", record.learning_rate));
}

}  // namespace lmhead
