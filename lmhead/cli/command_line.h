// What can be asked for on the command line. The front and the runner share this; it knows nothing of libtorch.
#pragma once

#include <string>
#include <variant>
#include <vector>

namespace lmhead {

struct TrainRequest {
  std::string configuration;           // a JSON file, or a run folder to go on with
  std::vector<std::string> overrides;  // key.path=value
  std::string run;                     // the run's folder; empty: runs/<name of the file>
  bool keys = false;                   // print every configuration key instead
};

struct StudyRequest {
  std::string study;
  std::vector<std::string> overrides;
  std::string out;  // empty: runs/<name of the study>
  bool dry_run = false;
};

struct HeadsRequest {
  bool json = false;
};

using Request = std::variant<TrainRequest, StudyRequest, HeadsRequest>;

/// Parses a native verb's arguments. Prints help or a one-line error and ends the process where there is nothing to run.
Request parse_command_line(int argument_count, char** arguments);

/// The verbs that the runner has; all others are programs called lmhead-VERB.
const std::vector<std::string>& native_verbs();

}  // namespace lmhead
