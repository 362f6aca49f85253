// Ctrl-C, SIGTERM and SIGHUP: exit code 130 at any moment; verbs that have something to save ask whether to stop.
#pragma once

namespace lmhead {

/// From here on the three signals end the process at once with exit code 130. SIGHUP stays ignored where it is, as
/// under nohup.
void end_on_stop_signals();

/// What is called before the process is ended at once; may do only what a handler of signals may.
void call_before_ending(void (*clean_up)());

/// Holds the three back until the program that replaces this process calls `end_on_stop_signals`, which lets them
/// through: while it is loaded they would end it in another way.
void hold_stop_signals();

/// From here on the first of the three is told by `stop_requested`, and the second ends the process at once.
void install_stop_handler();
bool stop_requested();

}  // namespace lmhead
