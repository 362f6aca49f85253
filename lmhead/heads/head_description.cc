#include "lmhead/heads/head_description.h"

#include <nlohmann/json.hpp>

namespace lmhead {

Json describe_head_kind(const HeadKind& kind) {
  const auto options = kind.make_options();
  Json keys = Json::array();
  for (const FieldDescription& field : detail::describe(detail::AnyOptions(*options)))
    keys.push_back({{"key", "head." + field.path},
                    {"type", field.type},
                    {"default", Json::parse(field.default_value)},
                    {"meaning", field.doc}});
  return {{"type", kind.type},     {"formula", kind.formula}, {"cost", kind.cost},
          {"memory", kind.memory}, {"source", kind.source},   {"keys", keys}};
}

Json describe_heads() {
  Json list = Json::array();
  for (const HeadKind& kind : head_kinds()) list.push_back(describe_head_kind(kind));
  return list;
}

}  // namespace lmhead
