// The command `lmhead`: answers help and mistakes at once, finds verbs that are programs of their own, the way git
// does, and hands everything else to the runner, which takes 0.3 s to load libtorch.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "lmhead/base/printable_text.h"
#include "lmhead/base/words.h"
#include "lmhead/cli/command_line.h"
#include "lmhead/cli/signals.h"
#include "lmhead/cli/standard_streams.h"

namespace {

namespace fs = std::filesystem;

/// Replaces this process; returns where that is not possible.
void execute(const fs::path& program, const std::vector<char*>& arguments) {
  std::vector<char*> all = arguments;
  all.push_back(nullptr);
  ::execv(program.c_str(), all.data());
}

/// The names of python/lmhead/verbs.py.
std::vector<std::string> python_verbs() {
  std::istringstream names(LMHEAD_PYTHON_VERBS);
  return {std::istream_iterator<std::string>(names), {}};
}

/// Folders to look for lmhead-VERB in: that of this program first.
std::vector<fs::path> search_folders(const fs::path& own) {
  std::vector<fs::path> folders = {own};
  const char* path = std::getenv("PATH");
  std::string rest = path ? path : "";
  for (std::size_t start = 0; start <= rest.size();) {
    const std::size_t end = std::min(rest.find(':', start), rest.size());
    if (end > start) folders.push_back(rest.substr(start, end - start));
    start = end + 1;
  }
  return folders;
}

}  // namespace

int main(int argument_count, char** arguments) {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error).parent_path();
  const std::string verb = argument_count > 1 ? arguments[1] : "";
  const auto& native = lmhead::native_verbs();
  const std::vector<std::string> python = python_verbs();
  const bool is_python = std::find(python.begin(), python.end(), verb) != python.end();
  if (is_python) lmhead::hold_stop_signals();  // until that program is ready for them
  if (!verb.empty() && verb[0] != '-' && std::find(native.begin(), native.end(), verb) == native.end()) {
    if (verb.find('/') == std::string::npos)
      for (const fs::path& folder : search_folders(own)) {
        const fs::path program = folder / ("lmhead-" + verb);
        if (::access(program.c_str(), X_OK) == 0)
          execute(program, std::vector<char*>(arguments + 1, arguments + argument_count));
      }
    lmhead::prepare_standard_streams();  // not before: other programs shall find signals as we did
    std::vector<std::string> verbs = native;
    verbs.insert(verbs.end(), python.begin(), python.end());
    const std::string nearest = lmhead::nearest_word(verb, verbs);
    std::cerr << "[lmhead] the verb must be one that `lmhead --help` lists or a program lmhead-"
              << lmhead::printable_text(verb) << " on the path, got \"" << lmhead::printable_text(verb) << '"'
              << (nearest.empty() ? "" : ", did you mean " + nearest + "?") << '\n';
    return 2;
  }
  lmhead::prepare_standard_streams();
  lmhead::end_on_stop_signals();
  try {
    lmhead::parse_command_line(argument_count, arguments);
  } catch (const lmhead::CommandLineEnd& end) {
    return lmhead::finish_standard_streams(end.exit_code);
  }
  lmhead::hold_stop_signals();
  const fs::path runner = own / "lmhead.native";
  execute(runner, std::vector<char*>(arguments, arguments + argument_count));
  std::cerr << "[lmhead] " << runner.string() << " must be there to run, got nothing; is the installation whole?\n";
  return 2;
}
