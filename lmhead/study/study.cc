#include "lmhead/study/study.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/study/run.h"

namespace lmhead {
namespace {

const Json& typed(const Json& json, const std::string& name, Json::value_t type, const char* must) {
  require(json.type() == type, "study", name, " must be ", must, ", got ", json.type_name());
  return json;
}

const Json& member(const Json& json, const char* key, Json::value_t type, const char* must) {
  const auto found = json.find(key);
  require(found != json.end(), "study", key, " must be ", must, ", got nothing");
  return typed(*found, key, type, must);
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

std::vector<StudyArm> read_arms(const Json& json, const SearchOptions& search) {
  if (!json.contains("arms")) return {{"base", "base", {}, {}, search}};
  std::vector<StudyArm> arms;
  std::set<std::string> names;
  for (const Json& item : member(json, "arms", Json::value_t::array, "a list of arms")) {
    require(item.is_object(), "study", "an arm must be an object, got ", item.type_name());
    check_keys(item, "arms.", {"name", "set", "search"});
    StudyArm arm;
    arm.name = member(item, "name", Json::value_t::string, "a text in every arm").get<std::string>();
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

/// Multiplies every arm by every combination of the grid's values.
std::vector<StudyArm> spread_over_grid(std::vector<StudyArm> arms, const Json& json) {
  if (!json.contains("grid")) return arms;
  for (const auto& axis : member(json, "grid", Json::value_t::object, "an object of lists").items()) {
    require(axis.value().is_array() && !axis.value().empty(), "study", "grid.", axis.key(),
            " must be a list of values, got ", axis.value().dump());
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

void check_arm(const Study& study, const StudyArm& arm) {
  if (arm.search.keys.empty()) return;
  require(!arm.search.seeds.empty(), "study",
          "search.seeds must be a list of integers where keys are searched, got nothing");
  for (const std::int64_t seed : arm.search.seeds)
    require(std::find(study.seeds.begin(), study.seeds.end(), seed) == study.seeds.end(), "study",
            "search.seeds must share no seed with seeds (what was tuned on a seed cannot be tested on it), got ", seed,
            " in both");
}

void check_choice(const Study& study, const std::string& name, const std::string& where) {
  std::vector<std::string> known;
  for (const StudyArm& arm : study.arms) known.push_back(arm.choice);
  if (std::find(known.begin(), known.end(), name) != known.end()) return;
  const std::string nearest = nearest_word(name, known);
  fail("study", where, " must be the name of an arm, got \"", name, '"',
       nearest.empty() ? "" : ", did you mean " + nearest + "?");
}

/// Every comparison at every place of the grid, each pair once.
std::vector<Comparison> read_comparisons(const Study& study, const Json& json) {
  std::vector<Comparison> comparisons;
  const auto add = [&](const std::string& baseline, const std::vector<std::string>* arms) {
    for (std::size_t b = 0; b < study.arms.size(); ++b)
      for (std::size_t a = 0; a < study.arms.size(); ++a) {
        const StudyArm &left = study.arms[b], &right = study.arms[a];
        if (left.choice != baseline || right.choice == baseline || left.grid != right.grid) continue;
        if (arms && std::find(arms->begin(), arms->end(), right.choice) == arms->end()) continue;
        comparisons.push_back({b, a});
      }
  };
  for (const Json& item : typed(json, "comparisons", Json::value_t::array, "a list of comparisons")) {
    check_keys(typed(item, "a comparison", Json::value_t::object, "an object"), "comparisons.", {"baseline", "arms"});
    const std::string baseline =
        member(item, "baseline", Json::value_t::string, "the name of an arm").get<std::string>();
    check_choice(study, baseline, "comparisons.baseline");
    if (!item.contains("arms")) {
      add(baseline, nullptr);
      continue;
    }
    const auto arms = read_texts(item["arms"], "comparisons.arms");
    for (const std::string& arm : arms) check_choice(study, arm, "comparisons.arms");
    add(baseline, &arms);
  }
  return comparisons;
}

CorrelationRequest read_correlation(const Json& json) {
  check_keys(typed(json, "correlations", Json::value_t::object, "a list of objects"), "correlations.",
             {"outcome", "predictors", "at_step", "given", "within", "margin"});
  CorrelationRequest request;
  const std::string outcome = text_member(json, "outcome", "final");
  require(outcome == "final" || outcome == "progress", "study",
          "correlations.outcome must be \"final\" or \"progress\", got \"", outcome, '"');
  request.of_progress = outcome == "progress";
  if (json.contains("predictors")) request.predictors = read_texts(json["predictors"], "correlations.predictors");
  require(!request.predictors.empty(), "study", "correlations.predictors must name at least one figure, got none");
  const Json step = json.value("at_step", Json());
  require(step.is_number_integer() && step >= 1, "study", "correlations.at_step must be an integer of at least 1, got ",
          step.dump());
  request.at_step = step.get<std::int64_t>();
  if (json.contains("given")) request.given = read_texts(json["given"], "correlations.given");
  if (json.contains("within")) request.within = read_texts(json["within"], "correlations.within");
  if (json.contains("margin")) request.margin = read_number(json["margin"], "correlations.margin", 0);
  return request;
}

/// What is held fixed must be there to be read, and what predicts must come before what is predicted.
void check_correlation(const Study& study, const CorrelationRequest& request) {
  std::vector<Json> configurations;
  for (const StudyArm& arm : study.arms)
    configurations.push_back(configuration_of(study, arm, {}, study.seeds.front()));
  for (const Json& configuration : configurations)
    require(request.at_step < configuration["training"]["steps"], "study",
            "correlations.at_step must be below training.steps of every arm, got ", request.at_step);
  for (const std::string& key : request.given)
    for (const Json& configuration : configurations) {
      const Json* value = find_value(configuration, key);
      require(value && value->is_number(), "study",
              "correlations.given must be keys of numbers in every arm's configuration, got \"", key, '"');
    }
  for (const std::string& key : request.within)
    require(std::any_of(configurations.begin(), configurations.end(),
                        [&](const Json& configuration) { return find_value(configuration, key) != nullptr; }),
            "study", "correlations.within must be keys of some arm's configuration, got \"", key, '"');
}

void check_source(const Study& study) {
  if (study.source.is_null()) return;
  check_keys(typed(study.source, "source", Json::value_t::object, "an object"), "source.",
             {"paper", "claim", "reported", "expected_sign"});
  if (study.source.contains("reported"))
    for (const Json& item : typed(study.source["reported"], "source.reported", Json::value_t::array, "a list")) {
      check_keys(typed(item, "source.reported", Json::value_t::object, "a list of objects"), "source.reported.",
                 {"arm", "baseline", "difference", "interval", "note"});
      check_choice(study, member(item, "arm", Json::value_t::string, "the name of an arm").get<std::string>(),
                   "source.reported.arm");
      require(item.contains("difference") && item["difference"].is_number(), "study",
              "source.reported.difference must be a number in every entry");
      if (!item.contains("interval")) continue;
      const Json& ends = item["interval"];
      require(ends.is_array() && ends.size() == 2 && ends[0].is_number() && ends[1].is_number(), "study",
              "source.reported.interval must be two numbers, got ", ends.dump());
    }
  if (!study.source.contains("expected_sign")) return;
  for (const auto& item :
       typed(study.source["expected_sign"], "source.expected_sign", Json::value_t::object, "an object").items()) {
    check_choice(study, item.key(), "source.expected_sign");
    require(item.value() == "+" || item.value() == "-" || item.value() == "0", "study", "source.expected_sign.",
            item.key(), " must be \"+\", \"-\" or \"0\", got ", item.value().dump());
  }
}

}  // namespace

Study read_study(const Json& json, const std::vector<std::string>& overrides) {
  require(json.is_object(), "study", "a study must be an object, got ", json.type_name());
  check_keys(json, "",
             {"name", "description", "source", "base", "arms", "grid", "search", "seeds", "outcome", "higher_is_better",
              "comparisons", "correlations", "margin", "reach", "details", "against", "keep", "limits"});
  Study study;
  study.json = json;
  study.name = member(json, "name", Json::value_t::string, "a text").get<std::string>();
  study.description = text_member(json, "description", "");
  study.outcome = text_member(json, "outcome", study.outcome);
  study.reach = text_member(json, "reach", study.reach);
  study.base = member(json, "base", Json::value_t::object, "a run configuration");
  for (const std::string& assignment : overrides) apply_override(study.base, assignment);
  study.json["base"] = study.base;
  study.seeds = {0};
  if (json.contains("seeds")) study.seeds = read_seeds(json["seeds"], "seeds");
  if (json.contains("higher_is_better"))
    study.higher_is_better = member(json, "higher_is_better", Json::value_t::boolean, "true or false").get<bool>();
  if (json.contains("margin")) study.margin = read_number(json["margin"], "margin", 0);
  if (json.contains("details")) study.details = read_texts(json["details"], "details");
  if (json.contains("against")) study.against = read_texts(json["against"], "against");
  if (json.contains("keep")) study.keep = read_texts(json["keep"], "keep");
  if (json.contains("limits")) study.limits = read_texts(json["limits"], "limits");
  if (json.contains("source")) study.source = json["source"];

  SearchOptions search;
  if (json.contains("search")) read_search(json["search"], "search", search);
  study.arms = spread_over_grid(read_arms(json, search), json);
  std::set<std::string> folders;
  for (const StudyArm& arm : study.arms) {
    require(folders.insert(as_folder_name(arm.name)).second, "study",
            "arms must have names that differ as folders, got ", as_folder_name(arm.name), " twice");
    check_arm(study, arm);
  }
  if (json.contains("comparisons")) study.comparisons = read_comparisons(study, json["comparisons"]);
  if (json.contains("correlations"))
    for (const Json& item : member(json, "correlations", Json::value_t::array, "a list of objects")) {
      study.correlations.push_back(read_correlation(item));
      check_correlation(study, study.correlations.back());
      for (const std::string& predictor : study.correlations.back().predictors)
        if (std::find(study.keep.begin(), study.keep.end(), predictor) == study.keep.end())
          study.keep.push_back(predictor);
    }
  if (study.reach != "worst") check_choice(study, study.reach, "reach");
  check_source(study);
  return study;
}

Json configuration_of(const Study& study, const StudyArm& arm, const KeyValues& searched, std::int64_t seed) {
  Json configuration = study.base;
  for (const auto& [path, value] : arm.set) set_at_path(configuration, path, value);
  for (const auto& [path, value] : searched) set_at_path(configuration, path, value);
  set_at_path(configuration, "training.seed", seed);
  return complete_configuration(configuration);
}

const Json* find_value(const Json& json, const std::string& path) {
  std::string pointer = "/" + path;
  std::replace(pointer.begin(), pointer.end(), '.', '/');
  const Json::json_pointer place(pointer);
  return json.contains(place) ? &json[place] : nullptr;
}

std::string as_folder_name(std::string text) {
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '-';
  return text;
}

}  // namespace lmhead
