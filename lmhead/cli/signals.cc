#include "lmhead/cli/signals.h"

#include <unistd.h>

#include <csignal>
#include <string_view>

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

void on_bus_error(int signal, siginfo_t* information, void*) {
  if (information->si_code != BUS_ADRERR) {  // a defect of ours, which shall look like one
    std::signal(signal, SIG_DFL);
    return;  // to the same instruction
  }
  constexpr std::string_view kText =
      "[files] a file that is being read must stay as long as it is, got one that was cut short, or a failing disk\n";
  if (::write(STDERR_FILENO, kText.data(), kText.size()) >= 0) clean_up();
  ::_exit(2);
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

void explain_bus_errors() {
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace lmhead
