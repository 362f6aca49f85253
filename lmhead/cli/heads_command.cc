#include <cstdio>
#include <nlohmann/json.hpp>

#include "lmhead/cli/commands.h"
#include "lmhead/heads/lm_head.h"

namespace lmhead {

int run_heads(const HeadsRequest& request) {
  if (!request.type.empty()) head_kind(request.type);  // throws with the nearest known one
  Json list = Json::array();
  for (const HeadKind& kind : head_kinds()) {
    if (!request.type.empty() && request.type != kind.type) continue;
    const auto options = kind.make_options();
    Json keys = Json::array();
    for (const FieldDescription& field : detail::describe(detail::AnyOptions(*options)))
      keys.push_back({{"key", "head." + field.path},
                      {"type", field.type},
                      {"default", Json::parse(field.default_value)},
                      {"meaning", field.doc}});
    list.push_back({{"type", kind.type},
                    {"formula", kind.formula},
                    {"cost", kind.cost},
                    {"memory", kind.memory},
                    {"source", kind.source},
                    {"keys", keys}});
  }
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
