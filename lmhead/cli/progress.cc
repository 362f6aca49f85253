#include "lmhead/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

namespace lmhead {
namespace {

volatile std::sig_atomic_t stop_flag = 0;

void on_stop_signal(int signal) {
  stop_flag = 1;
  std::signal(signal, SIG_DFL);
}

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

void install_stop_handler() {
  std::signal(SIGINT, on_stop_signal);
  std::signal(SIGTERM, on_stop_signal);
}

bool stop_requested() { return stop_flag != 0; }

std::string format_duration(double seconds) {
  const auto whole = static_cast<long long>(seconds + 0.5);
  char text[48];
  if (whole >= 3600)
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  else
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  return text;
}

Progress::Progress(std::string prefix, std::int64_t first_step, std::int64_t steps)
    : prefix_(std::move(prefix)), first_step_(first_step), steps_(steps), live_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()), last_shown_(start_ - std::chrono::hours(1)) {}

void Progress::show(const StepRecord& record) {
  const auto now = std::chrono::steady_clock::now();
  const bool last = record.step == steps_;
  if (record.validation) validation_ = "  valid " + format("%.4f", record.validation->loss);
  // On a terminal ten times a second is enough for the eye; elsewhere a line every ten seconds keeps a log short.
  const auto pause = live_ ? std::chrono::milliseconds(100) : std::chrono::seconds(10);
  if (!last && !record.validation && now - last_shown_ < pause) return;
  last_shown_ = now;
  const double done = double(record.step - first_step_);
  const double left = std::chrono::duration<double>(now - start_).count() / done * double(steps_ - record.step);
  // Most important first: a narrow terminal cuts the end.
  std::string line = prefix_ + "step " + std::to_string(record.step) + "/" + std::to_string(steps_) + "  loss " +
                     format("%.4f", record.loss) + validation_ + "  left " + format_duration(left) + "  " +
                     format("%.0f", record.tokens_per_second) + " tokens/s  lr " +
                     format("%.2e", record.learning_rate);
  if (!live_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  line = line.substr(0, terminal_width() - 1);
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  std::fflush(stderr);
  line_open_ = true;
}

void Progress::finish() {
  if (line_open_) std::fprintf(stderr, "\n");
  line_open_ = false;
}

}  // namespace lmhead
