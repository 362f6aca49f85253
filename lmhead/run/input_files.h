// Files beside its data that change what a run says: it is told from others by their content, wherever they lie.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/json.h"

namespace lmhead {

struct InputFileKind {
  Json::json_pointer place;  // of its path in a configuration
  std::string key;           // the same in words
  std::string name;          // of the hash of its content in a summary
};
/// Those that a run begins from, and what it is asked meanwhile.
const std::vector<InputFileKind>& input_file_kinds();

/// The file of that kind that a run of this complete configuration reads; empty: none.
std::string input_file(const Json& complete, const InputFileKind& kind);

}  // namespace lmhead
