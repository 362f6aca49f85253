// Standard output and error that are full or closed end in one line and an exit code, never in lost output.
#pragma once

namespace lmhead {

/// At the start of a program: a file that is opened must never take the number of a closed standard stream, or what is
/// printed would go into it; and writing to a pipe that nobody reads, or beyond a limit on the size of files, is to be
/// an error and not a signal.
void prepare_standard_streams();

/// At the end of a program: `exit_code`, or 2 in place of 0 where something that was printed did not arrive; says so in
/// one line where standard error still takes it.
int finish_standard_streams(int exit_code);

}  // namespace lmhead
