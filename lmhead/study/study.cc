#include "lmhead/study/study.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "lmhead/base/error.h"
#include "lmhead/study/results.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

const Json& member(const Json& json, const char* key, Json::value_t type, const char* must) {
  const auto found = json.find(key);
  require(found != json.end() && found->type() == type, "study", key, " must be ", must, ", got ",
          found == json.end() ? "nothing" : found->type_name());
  return *found;
}

void check_keys(const Json& json, const std::string& where, const std::vector<std::string>& known) {
  for (const auto& item : json.items()) {
    if (std::find(known.begin(), known.end(), item.key()) != known.end()) continue;
    const std::string nearest = nearest_word(item.key(), known);
    fail("study", where, item.key(), " must be a known key", nearest.empty() ? "" : ", did you mean " + nearest + "?");
  }
}

std::vector<StudyArm> read_arms(const Json& json) {
  if (!json.contains("arms")) return {{"base", {}}};
  std::vector<StudyArm> arms;
  for (const Json& item : member(json, "arms", Json::value_t::array, "a list of arms")) {
    require(item.is_object(), "study", "an arm must be an object, got ", item.type_name());
    check_keys(item, "arms.", {"name", "set"});
    StudyArm arm{member(item, "name", Json::value_t::string, "a text in every arm").get<std::string>(), {}};
    if (item.contains("set"))
      for (const auto& entry : member(item, "set", Json::value_t::object, "an object in an arm").items())
        arm.set.emplace_back(entry.key(), entry.value());
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
        spread.push_back(std::move(one));
      }
    arms = std::move(spread);
  }
  return arms;
}

std::string as_folder_name(std::string text) {
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '-';
  return text;
}

}  // namespace

Study read_study(const Json& json, const std::vector<std::string>& overrides) {
  require(json.is_object(), "study", "a study must be an object, got ", json.type_name());
  check_keys(json, "", {"name", "description", "base", "arms", "grid", "seeds"});
  Study study;
  study.json = json;
  study.name = member(json, "name", Json::value_t::string, "a text").get<std::string>();
  if (json.contains("description"))
    study.description = member(json, "description", Json::value_t::string, "a text").get<std::string>();
  study.base = member(json, "base", Json::value_t::object, "a run configuration");
  for (const std::string& assignment : overrides) apply_override(study.base, assignment);
  study.json["base"] = study.base;
  study.arms = spread_over_grid(read_arms(json), json);
  study.seeds = {0};
  if (json.contains("seeds")) {
    study.seeds.clear();
    for (const Json& seed : member(json, "seeds", Json::value_t::array, "a list of integers")) {
      require(seed.is_number_integer() && (seed.is_number_unsigned() || seed.get<std::int64_t>() >= 0), "study", "seeds must be integers of at least 0, got ", seed.dump());
      study.seeds.push_back(seed.get<std::int64_t>());
    }
    require(!study.seeds.empty(), "study", "seeds must hold at least one seed, got none");
  }
  return study;
}

std::vector<StudyRun> runs_of(const Study& study) {
  std::vector<StudyRun> runs;
  std::set<std::string> folders;
  for (const std::int64_t seed : study.seeds)
    for (const StudyArm& arm : study.arms) {
      Json configuration = study.base;
      for (const auto& [path, value] : arm.set) set_at_path(configuration, path, value);
      set_at_path(configuration, "training.seed", seed);
      const std::string folder = "runs/" + as_folder_name(arm.name) + "/seed-" + std::to_string(seed);
      require(folders.insert(folder).second, "study", "arms must have names that differ as folders, got ", folder,
              " twice");
      runs.push_back({arm.name, seed, folder, complete_configuration(configuration)});
    }
  return runs;
}

RunState state_of(const StudyRun& run, const fs::path& folder) {
  if (is_finished(folder / run.folder, run.configuration)) return RunState::kFinished;
  return fs::exists(folder / run.folder / "config.json") ? RunState::kStarted : RunState::kMissing;
}

bool run_study(const Study& study, const fs::path& folder, const StudyControl& control) {
  const std::vector<StudyRun> runs = runs_of(study);
  make_directory(folder / "runs");
  write_file_atomic(folder / "study.json", study.json.dump(2) + "\n");
  bool all_finished = true;
  for (std::size_t index = 0; index < runs.size(); ++index) {
    const StudyRun& run = runs[index];
    const RunState state = state_of(run, folder);
    control.on_run(index, run, state);
    if (state == RunState::kFinished) continue;
    bool finished = false;
    try {
      finished = run_training(run.configuration, folder / run.folder,
                              {.on_start = [&](std::int64_t first) { control.on_start(run, first); },
                               .trainer = {.on_step = control.on_step, .should_stop = control.should_stop}});
    } catch (const std::exception& error) {  // a diverged arm, or one too large for memory, must not cost the others
      const std::string text = error.what();
      control.on_failure(run, text.substr(0, text.find('\n')));
    }
    all_finished &= finished;
    write_results(study.name, runs, folder);
    if (control.should_stop()) return false;
  }
  write_results(study.name, runs, folder);
  return all_finished;
}

std::vector<ArmSummary> summarise(const Study& study, const fs::path& folder) {
  std::vector<ArmSummary> summaries;
  const std::vector<StudyRun> runs = runs_of(study);
  for (const StudyArm& arm : study.arms) {
    ArmSummary mean{arm.name};
    std::vector<Json> finals, summaries_of_runs, retentions;
    for (const StudyRun& run : runs) {
      if (run.arm != arm.name || state_of(run, folder) != RunState::kFinished) continue;
      const Json summary = *read_summary(folder / run.folder);
      summaries_of_runs.push_back(summary);
      finals.push_back(summary.at("final").at("validation"));
      const auto log = read_log(folder / run.folder);
      const auto last = std::find_if(log.rbegin(), log.rend(),
                                     [](const Json& line) { return line.contains("gradient_retention"); });
      if (last != log.rend()) retentions.push_back(last->at("gradient_retention"));
    }
    mean.seeds = std::int64_t(finals.size());
    const auto mean_of = [](const std::vector<Json>& objects, const char* key) {
      double sum = 0;
      for (const Json& object : objects)
        sum += object.contains(key) && object[key].is_number() ? object[key].get<double>() : std::nan("");
      return objects.empty() ? std::nan("") : sum / double(objects.size());
    };
    mean.validation_loss = mean_of(finals, "loss");
    mean.bits_per_byte = mean_of(finals, "bits_per_byte");
    mean.destroyed_ratio = mean_of(retentions, "destroyed_ratio");
    mean.null_destroyed_ratio = mean_of(retentions, "null_destroyed_ratio");
    mean.destroyed_excess = mean_of(retentions, "destroyed_excess");
    mean.tokens_per_second = mean_of(summaries_of_runs, "tokens_per_second");
    mean.wall_seconds = mean_of(summaries_of_runs, "wall_seconds");
    summaries.push_back(mean);
  }
  return summaries;
}

}  // namespace lmhead
