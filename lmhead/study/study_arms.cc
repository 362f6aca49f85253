#include "lmhead/study/study_arms.h"

#include <algorithm>
#include <map>
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
    arm.name = name_member(item, /*is_arm=*/true, "arms.name");
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

/// One value of an axis of the grid, and what it does to the arms.
struct GridValue {
  std::string label;
  const char* joined = " ";  // between the name of an arm and the label
  Json value;
  KeyValues set;                          // of every arm
  std::map<std::string, KeyValues> arms;  // of the arm of that name beside
  Json search;                            // over that of every arm that is searched; null where there is none
};

KeyValues read_key_values(const Json& json, const std::string& name) {
  KeyValues values;
  for (const auto& entry : typed(json, name, Json::value_t::object, "an object of key.path: value").items())
    values.emplace_back(entry.key(), entry.value());
  return values;
}

/// A value with a name, which sets several keys at once.
GridValue read_place(const Json& json, const std::string& axis, const std::vector<StudyArm>& choices) {
  const std::string where = "grid." + axis + ".";
  require(json.is_object() && json.contains("set"), "study", "grid.", axis,
          " must be objects with name and set where one of them is, got ", json.dump().substr(0, 100));
  check_keys(json, where, {"name", "set", "arms", "search"});
  GridValue place;
  place.label = name_member(json, /*is_arm=*/true, where + "name");
  place.joined = " at ";
  place.value = place.label;
  place.set = read_key_values(json["set"], where + "set");
  if (json.contains("arms"))
    for (const auto& own : typed(json["arms"], where + "arms", Json::value_t::object, "an object").items()) {
      std::vector<std::string> known;
      for (const StudyArm& arm : choices) known.push_back(arm.choice);
      require(std::find(known.begin(), known.end(), own.key()) != known.end(), "study", where,
              "arms must be names of arms, got \"", own.key(), "\", not one of ", Json(known).dump());
      place.arms[own.key()] = read_key_values(own.value(), where + "arms." + own.key());
    }
  if (json.contains("search")) place.search = json["search"];
  return place;
}

/// The values of an axis: each of a key, or places with names.
std::vector<GridValue> read_axis(const std::string& axis, const Json& json, const std::vector<StudyArm>& choices) {
  require(json.is_array() && !json.empty(), "study", "grid.", axis, " must be a list of values, got ", json.dump());
  const bool has_places =
      std::ranges::any_of(json, [](const Json& value) { return value.is_object() && value.contains("set"); });
  std::vector<GridValue> values;
  std::set<std::string> names;
  for (const Json& value : json) {
    if (!has_places) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      values.push_back({.label = axis + "=" + text, .value = value, .set = {{axis, value}}, .arms = {}, .search = {}});
      continue;
    }
    values.push_back(read_place(value, axis, choices));
    require(names.insert(values.back().label).second, "study", "grid.", axis, " must have names that differ, got \"",
            values.back().label, "\" twice");
  }
  return values;
}

/// A key that two set would quietly be that of the second.
void check_set_once(const StudyArm& arm, const std::string& axis, const GridValue& value) {
  for (const auto& [key, ignored] : value.set)
    require(std::ranges::find(arm.set, key, &KeyValues::value_type::first) == arm.set.end(), "study", "grid.", axis,
            " must set no key that arm ", arm.name, " sets already, got \"", key, '"');
}

StudyArm arm_at(const StudyArm& arm, const std::string& axis, const GridValue& value, bool has_own_name) {
  check_set_once(arm, axis, value);
  StudyArm one = arm;
  one.name = has_own_name ? arm.name + value.joined + value.label : value.label;
  one.set.insert(one.set.end(), value.set.begin(), value.set.end());
  if (const auto own = value.arms.find(arm.choice); own != value.arms.end())
    one.set.insert(one.set.end(), own->second.begin(), own->second.end());
  one.grid.emplace_back(axis, value.value);
  if (!value.search.is_null() && !one.search.keys.empty())
    read_search(value.search, "grid." + axis + ".search", one.search);
  return one;
}

/// Multiplies every arm by every combination of the grid's values.
std::vector<StudyArm> spread_over_grid(std::vector<StudyArm> arms, const Json& json) {
  if (!json.contains("grid")) return arms;
  const std::vector<StudyArm> choices = arms;
  for (const auto& axis : member(json, "grid", Json::value_t::object, "an object of lists").items()) {
    const std::vector<GridValue> values = read_axis(axis.key(), axis.value(), choices);
    require(arms.size() * values.size() <= kMostArms, "study", "arms and grid must make at most ", kMostArms,
            " arms, got more from grid.", axis.key());
    std::vector<StudyArm> spread;
    for (const StudyArm& arm : arms)
      for (const GridValue& value : values)
        spread.push_back(arm_at(arm, axis.key(), value, json.contains("arms") || arm.name != "base"));
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
