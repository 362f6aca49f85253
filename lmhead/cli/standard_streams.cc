#include "lmhead/cli/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>

namespace lmhead {

void prepare_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0) continue;
    // Takes the lowest free number, which is this one. For reading only: what is printed then fails, as it should.
    if (::open("/dev/null", O_RDONLY) < 0) break;
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

int finish_standard_streams(int exit_code) {
  errno = 0;
  std::cout.flush();
  const bool failed_before = std::ferror(stdout) != 0 || !std::cout;
  // What failed long ago has left no reason; one more byte, of what is torn anyway, gets it once more.
  if (failed_before && errno == 0 && ::write(STDOUT_FILENO, "\n", 1) > 0) errno = 0;
  // Network disks say only when a file is closed that it could not be written.
  const bool fails_now = std::fflush(stdout) != 0 || ::close(STDOUT_FILENO) != 0;
  const bool is_lost = failed_before || fails_now;
  if (is_lost)
    std::fprintf(stderr, "[lmhead] standard output must take what is printed, got: %s\n",
                 errno != 0 ? std::strerror(errno) : "an error on the way");
  std::fflush(stderr);
  return exit_code == 0 && (is_lost || std::ferror(stderr) != 0) ? 2 : exit_code;
}

}  // namespace lmhead
