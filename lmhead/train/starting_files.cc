#include "lmhead/train/starting_files.h"

#include <nlohmann/json.hpp>

namespace lmhead {

const std::vector<StartingFileKind>& starting_file_kinds() {
  static const std::vector<StartingFileKind> kinds = {
      {"training", "initial_weights", "initial_weights", &TrainingState::initial_weights_hash},
      {"head", "weights", "head_weights", &TrainingState::head_weights_hash},  // of heads that have such a key
  };
  return kinds;
}

std::vector<StartingFile> starting_files(const Json& complete) {
  std::vector<StartingFile> files;
  for (const StartingFileKind& kind : starting_file_kinds()) {
    const Json& group = complete.at(kind.group);
    const auto path = group.find(kind.key);
    if (path != group.end() && path->is_string() && *path != "") files.push_back({kind, path->get<std::string>()});
  }
  return files;
}

}  // namespace lmhead
