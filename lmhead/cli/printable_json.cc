#include "lmhead/cli/printable_json.h"

#include <nlohmann/json.hpp>

#include "lmhead/base/printable_text.h"

namespace lmhead {

Json printable(const Json& json) {
  if (json.is_string()) return printable_text(json.get_ref<const std::string&>());
  if (!json.is_structured()) return json;
  Json all = Json(json.type());
  for (const auto& item : json.items())
    if (json.is_object()) all[printable_text(item.key())] = printable(item.value());
    else all.push_back(printable(item.value()));
  return all;
}

}  // namespace lmhead
