// Files beside its data that a run reads where it begins, and by whose content it is known from then on.
#pragma once

#include <string>
#include <vector>

#include "lmhead/base/json.h"
#include "lmhead/train/checkpoint.h"

namespace lmhead {

struct StartingFileKind {
  std::string group, key;             // that name the file in a configuration
  std::string name;                   // of its hash in a summary
  std::string TrainingState::* hash;  // empty: the configuration names none
};
const std::vector<StartingFileKind>& starting_file_kinds();

struct StartingFile {
  StartingFileKind kind;
  std::string path;
};
/// The files that a configuration with all of its keys names.
std::vector<StartingFile> starting_files(const Json& complete);

}  // namespace lmhead
