#include "lmhead/models/safetensors_index.h"

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/models/safetensors_json.h"

namespace lmhead {
namespace {

/// A plain name that stays in its folder on every system.
bool is_plain_name(std::string_view name) {
  constexpr std::string_view kSuffix = ".safetensors", kAlso = "._-+=@ ";
  const auto is_allowed = [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || kAlso.find(c) != kAlso.npos;
  };
  return name.size() > kSuffix.size() && name.size() <= 255 && name.ends_with(kSuffix) && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), is_allowed);
}

}  // namespace

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, std::string_view file) {
  SafetensorsJsonReader reader(text, file);
  std::map<std::string, std::string> weight_map;
  bool has_map = false;
  reader.read_object("the index", [&](std::string key) {
    if (key != "weight_map") return reader.skip_value("the index");
    require(!has_map, "safetensors", file, ": the index must have one weight_map, got two");
    has_map = true;
    reader.read_object("weight_map", [&](std::string name) {
      std::string shard = reader.read_string("a value in weight_map");
      require(is_plain_name(shard), "safetensors", file,
              ": a value in weight_map must be the plain name of a .safetensors", " file in the same folder, got ",
              quote_for_message(shard));
      const auto [place, is_new] = weight_map.emplace(std::move(name), std::move(shard));
      require(is_new, "safetensors", file, ": weight_map must name ", quote_for_message(place->first),
              " once, got it twice");
    });
  });
  reader.read_end();
  require(!weight_map.empty(), "safetensors", file, ": the index must have a weight_map that names tensors, got none");
  return weight_map;
}

}  // namespace lmhead
