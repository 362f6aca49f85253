#include "lmhead/study/study.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/run/run.h"
#include "lmhead/study/study_arms.h"
#include "lmhead/study/study_json.h"
#include "lmhead/study/study_questions.h"

namespace lmhead {
namespace {

/// Every run is planned anew after every other.
constexpr std::size_t kMostRuns = 20000;

std::size_t count_runs(const Study& study, const StudyArm& arm) {
  std::size_t candidates = 0;
  for (const SearchKey& key : arm.search.keys) candidates += key.values.size();
  return study.seeds.size() + candidates * arm.search.seeds.size();
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

}  // namespace

Study read_study(const Json& json, const std::vector<std::string>& overrides) {
  require(json.is_object(), "study", "a study must be an object, got ", json.type_name());
  check_keys(json, "", {"name",   "description", "source",           "base",    "arms",        "grid",         "search",
                        "seeds",  "outcome",     "higher_is_better", "confirm", "comparisons", "correlations", "fits",
                        "margin", "reach",       "details",          "against", "keep",        "limits"});
  Study study;
  study.json = json;
  study.name = name_member(json, /*is_arm=*/false, "name");
  study.description = text_member(json, "description", "");
  study.outcome = text_member(json, "outcome", study.outcome);
  study.reach = text_member(json, "reach", study.reach);
  study.base = member(json, "base", Json::value_t::object, "a run configuration");
  for (const std::string& assignment : overrides) apply_override(study.base, assignment);
  study.json["base"] = study.base;
  study.seeds = {0};
  if (json.contains("seeds")) study.seeds = read_seeds(json["seeds"], "seeds");
  if (json.contains("confirm"))
    for (const auto& item : member(json, "confirm", Json::value_t::object, "an object").items()) {
      require(item.key().starts_with("observe."), "study",
              "confirm must hold keys of observe alone (what is compared is what was searched), got \"", item.key(),
              '"');
      study.confirm.emplace_back(item.key(), item.value());
    }
  if (json.contains("higher_is_better"))
    study.higher_is_better = member(json, "higher_is_better", Json::value_t::boolean, "true or false").get<bool>();
  if (json.contains("margin")) study.margin = read_number(json["margin"], "margin", 0);
  if (json.contains("details")) study.details = read_texts(json["details"], "details");
  if (json.contains("against")) study.against = read_texts(json["against"], "against");
  if (json.contains("keep")) study.keep = read_texts(json["keep"], "keep");
  if (json.contains("limits")) study.limits = read_texts(json["limits"], "limits");
  if (json.contains("source")) study.source = json["source"];

  study.arms = read_arms(json);
  std::set<std::string> folders;
  std::size_t runs = 0;
  for (const StudyArm& arm : study.arms) {
    require(folders.insert(as_folder_name(arm.name)).second, "study",
            "arms must have names that differ as folders, got ", as_folder_name(arm.name), " twice");
    check_arm(study, arm);
    runs += count_runs(study, arm);
  }
  require(runs <= kMostRuns, "study", "arms, grid, seeds and search must ask for at most ", kMostRuns, " runs, got ",
          runs);
  read_questions(json, study);
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
  const Json* place = &json;
  for (std::size_t start = 0, end; place && start <= path.size(); start = end + 1) {
    end = std::min(path.find('.', start), path.size());
    const std::string key = path.substr(start, end - start);
    if (place->is_array()) {
      const bool is_index =
          !key.empty() && key.size() < 10 && std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
      place = is_index && std::stoul(key) < place->size() ? &(*place)[std::stoul(key)] : nullptr;
    } else {
      const auto found = place->find(key);
      place = found != place->end() ? &*found : nullptr;
    }
  }
  return place;
}

std::string as_folder_name(std::string text) {
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '-';
  return text;
}

}  // namespace lmhead
