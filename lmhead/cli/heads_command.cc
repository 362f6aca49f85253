#include <cstdio>
#include <nlohmann/json.hpp>

#include "lmhead/cli/commands.h"
#include "lmhead/heads/head_description.h"

namespace lmhead {

int run_heads(const HeadsRequest& request) {
  // An unknown type throws with the nearest known one.
  const Json list =
      request.type.empty() ? describe_heads() : Json::array({describe_head_kind(head_kind(request.type))});
  if (request.json) {
    std::printf("%s\n", list.dump(2).c_str());
    return 0;
  }
  for (const Json& head : list) {
    std::printf("%s: %s\n", head["type"].get<std::string>().c_str(), head["formula"].get<std::string>().c_str());
    for (const char* about : {"cost", "memory", "source"})
      std::printf("    %s: %s\n", about, head[about].get<std::string>().c_str());
    for (const Json& key : head["keys"])
      std::printf("    %s = %s: %s; %s\n", key["key"].get<std::string>().c_str(), key["default"].dump().c_str(),
                  key["type"].get<std::string>().c_str(), key["meaning"].get<std::string>().c_str());
  }
  return 0;
}

}  // namespace lmhead
