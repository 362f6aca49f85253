#include "lmhead/run/input_files.h"

#include "lmhead/train/starting_files.h"

namespace lmhead {
namespace {

constexpr const char* kRequests = "requests";

}  // namespace

const std::vector<InputFileKind>& input_file_kinds() {
  static const std::vector<InputFileKind> kinds = [] {
    std::vector<InputFileKind> all;
    for (const StartingFileKind& kind : starting_file_kinds())
      all.push_back({Json::json_pointer("/" + kind.group + "/" + kind.key), kind.group + "." + kind.key, kind.name});
    all.push_back({Json::json_pointer("/observe/downstream/requests"), "observe.downstream.requests", kRequests});
    return all;
  }();
  return kinds;
}

std::string input_file(const Json& complete, const InputFileKind& kind) {
  if (kind.name == kRequests && complete.at("observe").at("downstream").at("every").get<std::int64_t>() == 0) return "";
  return complete.contains(kind.place) ? complete.at(kind.place).get<std::string>() : "";
}

}  // namespace lmhead
