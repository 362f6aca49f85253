#include "lmhead/study/study_json.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {

const Json& typed(const Json& json, const std::string& name, Json::value_t type, const char* must) {
  require(json.type() == type, "study", name, " must be ", must, ", got ", json.type_name());
  return json;
}

const Json& member(const Json& json, const char* key, Json::value_t type, const char* must) {
  const auto found = json.find(key);
  require(found != json.end(), "study", key, " must be ", must, ", got nothing");
  return typed(*found, key, type, must);
}

std::string name_member(const Json& json, bool is_arm, const std::string& where) {
  constexpr std::size_t kLongest = 200;  // with what is added to it, a file system still takes it
  const std::string name =
      member(json, "name", Json::value_t::string, is_arm ? "a text in every arm" : "a text").get<std::string>();
  bool good = !name.empty() && name.size() <= kLongest && printable_text(name) == name;
  std::vector<std::string> parts;
  std::istringstream text(name + "/");
  for (std::string part; std::getline(text, part, '/');) parts.push_back(part);
  good &= is_arm || parts.size() == 1;
  for (const std::string& part : parts) good &= !part.empty() && part != "." && part != "..";
  require(good, "study", where, " must be 1 to ", kLongest,
          " bytes without control characters or a way to another folder, got ", quote_for_message(name));
  return name;
}

std::string text_member(const Json& json, const char* key, const std::string& otherwise) {
  return json.contains(key) ? member(json, key, Json::value_t::string, "a text").get<std::string>() : otherwise;
}

void check_keys(const Json& json, const std::string& where, const std::vector<std::string>& known) {
  for (const auto& item : json.items()) {
    if (std::find(known.begin(), known.end(), item.key()) != known.end()) continue;
    const std::string nearest = nearest_word(item.key(), known);
    fail("study", where, item.key(), " must be a known key", nearest.empty() ? "" : ", did you mean " + nearest + "?");
  }
}

std::vector<std::string> read_texts(const Json& json, const std::string& name) {
  std::vector<std::string> texts;
  for (const Json& item : typed(json, name, Json::value_t::array, "a list of texts"))
    texts.push_back(typed(item, name, Json::value_t::string, "a list of texts").get<std::string>());
  return texts;
}

std::vector<std::int64_t> read_seeds(const Json& json, const std::string& name) {
  std::vector<std::int64_t> seeds;
  for (const Json& seed : typed(json, name, Json::value_t::array, "a list of integers")) {
    require(seed.is_number_integer() && (seed.is_number_unsigned() || seed.get<std::int64_t>() >= 0), "study", name,
            " must be integers of at least 0, got ", seed.dump());
    seeds.push_back(seed.get<std::int64_t>());
  }
  require(!seeds.empty(), "study", name, " must hold at least one seed, got none");
  require(std::set<std::int64_t>(seeds.begin(), seeds.end()).size() == seeds.size(), "study", name,
          " must differ, got ", json.dump());
  return seeds;
}

double read_number(const Json& json, const std::string& name, double above) {
  require(json.is_number() && json.get<double>() > above && std::isfinite(json.get<double>()), "study", name,
          " must be a number above ", above, ", got ", json.dump());
  return json.get<double>();
}

}  // namespace lmhead
