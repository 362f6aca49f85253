#include "lmhead/study/study_arms.h"

#include <algorithm>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/study/study_json.h"

namespace lmhead {
namespace {

SearchKey read_search_key(const std::string& path, const Json& json) {
  const std::string name = "search.keys." + path;
  check_keys(typed(json, name, Json::value_t::object, "an object"), name + ".", {"values", "factor"});
  SearchKey key{path, {}, 2};
  if (json.contains("factor")) key.factor = read_number(json["factor"], name + ".factor", 1);
  require(json.contains("values"), "study", name, ".values must be a list of numbers, got nothing");
  for (const Json& value : typed(json["values"], name + ".values", Json::value_t::array, "a list of numbers"))
    key.values.push_back(read_number(value, name + ".values", 0));
  std::sort(key.values.begin(), key.values.end());
  key.values.erase(std::unique(key.values.begin(), key.values.end()), key.values.end());
  require(!key.values.empty(), "study", name, ".values must hold at least one value, got none");
  return key;
}

/// Reads over `options`, so that an arm's own search says only what differs.
void read_search(const Json& json, const std::string& name, SearchOptions& options) {
  if (json.is_boolean() && !json.get<bool>()) {
    options.keys.clear();
    return;
  }
  check_keys(typed(json, name, Json::value_t::object, "an object"), name + ".",
             {"keys", "seeds", "max_extensions", "rounds"});
  if (json.contains("keys"))
    for (const auto& item : typed(json["keys"], name + ".keys", Json::value_t::object, "an object").items()) {
      const SearchKey key = read_search_key(item.key(), item.value());
      const auto same = std::find_if(options.keys.begin(), options.keys.end(),
                                     [&](const SearchKey& other) { return other.path == key.path; });
      if (same == options.keys.end()) options.keys.push_back(key);
      else *same = key;
    }
  if (json.contains("seeds")) options.seeds = read_seeds(json["seeds"], name + ".seeds");
  const auto read_count = [&](const char* key, std::int64_t least, std::int64_t& into) {
    if (!json.contains(key)) return;
    const Json& count = json[key];
    require(count.is_number_integer() && count >= least && count <= 64, "study", name, '.', key,
            " must be an integer from ", least, " to 64, got ", count.dump());
    into = count.get<std::int64_t>();
  };
  read_count("max_extensions", 0, options.max_extensions);
  read_count("rounds", 1, options.rounds);
}

std::vector<StudyArm> read_choices(const Json& json, const SearchOptions& search) {
  if (!json.contains("arms")) return {{"base", "base", {}, {}, search}};
  std::vector<StudyArm> arms;
  std::set<std::string> names;
  for (const Json& item : member(json, "arms", Json::value_t::array, "a list of arms")) {
    require(item.is_object(), "study", "an arm must be an object, got ", item.type_name());
    check_keys(item, "arms.", {"name", "set", "search"});
    StudyArm arm;
    arm.name = name_member(item, /*is_arm=*/true);
    arm.choice = arm.name;
    require(names.insert(arm.name).second, "study", "arms must have names that differ, got \"", arm.name, "\" twice");
    arm.search = search;
    if (item.contains("set"))
      for (const auto& entry : member(item, "set", Json::value_t::object, "an object in an arm").items())
        arm.set.emplace_back(entry.key(), entry.value());
    if (item.contains("search")) read_search(item["search"], "arms." + arm.name + ".search", arm.search);
    arms.push_back(std::move(arm));
  }
  require(!arms.empty(), "study", "arms must hold at least one arm, got none");
  return arms;
}

constexpr std::size_t kMostArms = 10000;

/// Multiplies every arm by every combination of the grid's values.
std::vector<StudyArm> spread_over_grid(std::vector<StudyArm> arms, const Json& json) {
  if (!json.contains("grid")) return arms;
  for (const auto& axis : member(json, "grid", Json::value_t::object, "an object of lists").items()) {
    require(axis.value().is_array() && !axis.value().empty(), "study", "grid.", axis.key(),
            " must be a list of values, got ", axis.value().dump());
    require(arms.size() * axis.value().size() <= kMostArms, "study", "arms and grid must make at most ", kMostArms,
            " arms, got more from grid.", axis.key());
    std::vector<StudyArm> spread;
    for (const StudyArm& arm : arms)
      for (const Json& value : axis.value()) {
        StudyArm one = arm;
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        const std::string label = axis.key() + "=" + text;
        one.name = json.contains("arms") || arm.name != "base" ? arm.name + " " + label : label;
        one.set.emplace_back(axis.key(), value);
        one.grid.emplace_back(axis.key(), value);
        spread.push_back(std::move(one));
      }
    arms = std::move(spread);
  }
  return arms;
}

}  // namespace

std::vector<StudyArm> read_arms(const Json& study) {
  SearchOptions search;
  if (study.contains("search")) read_search(study["search"], "search", search);
  return spread_over_grid(read_choices(study, search), study);
}

}  // namespace lmhead
