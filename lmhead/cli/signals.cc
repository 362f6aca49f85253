#include "lmhead/cli/signals.h"

#include <unistd.h>

#include <csignal>

namespace lmhead {
namespace {

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP};
constexpr int kStopped = 130;

volatile std::sig_atomic_t stop_flag = 0;

void do_nothing() {}

void (*volatile clean_up)() = do_nothing;

void end_at_once(int) {
  clean_up();
  ::_exit(kStopped);
}

void on_stop_signal(int signal) {
  stop_flag = 1;
  std::signal(signal, end_at_once);
}

void set_stop_handler(void (*handler)(int)) {
  for (const int signal : kStopSignals)
    if (std::signal(signal, handler) == SIG_IGN && signal == SIGHUP) std::signal(signal, SIG_IGN);
}

void change_mask(int how) {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : kStopSignals) ::sigaddset(&signals, signal);
  ::sigprocmask(how, &signals, nullptr);
}

}  // namespace

void end_on_stop_signals() {
  set_stop_handler(end_at_once);
  change_mask(SIG_UNBLOCK);
}

void call_before_ending(void (*own)()) { clean_up = own; }

void hold_stop_signals() { change_mask(SIG_BLOCK); }

void install_stop_handler() { set_stop_handler(on_stop_signal); }

bool stop_requested() { return stop_flag != 0; }

}  // namespace lmhead
