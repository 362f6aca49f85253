// A grid of runs: arms that differ in some keys, over seeds, one after another.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/study/run.h"

namespace lmhead {

/// One choice of keys, with a name that tables and plots show.
struct StudyArm {
  std::string name;
  std::vector<std::pair<std::string, Json>> set;  // dotted key, value
};

struct Study {
  std::string name, description;
  Json base;                // a run configuration
  std::vector<StudyArm> arms;  // the arms of the file times its grid; at least one
  std::vector<std::int64_t> seeds;
  Json json;  // as written, for the study's folder
};

struct StudyRun {
  std::string arm;
  std::int64_t seed;
  std::string folder;  // relative to the study's
  Json configuration;  // complete
};

/// Reads `{"name", "description", "base", "arms": [{"name", "set": {"head.rank": 4}}], "grid": {"key.path": [values]}, "seeds": [0]}`;
/// arms, grid and seeds may be left out. Overrides replace values of the base. Throws on unknown keys and wrong types.
Study read_study(const Json& json, const std::vector<std::string>& overrides);

/// Every run of the study, each configuration checked, in the order in which they are carried out: seed by seed, so that a study cut
/// short has whole comparisons.
std::vector<StudyRun> runs_of(const Study& study);

enum class RunState { kMissing, kStarted, kFinished };
RunState state_of(const StudyRun& run, const std::filesystem::path& folder);

struct StudyControl {
  std::function<void(std::size_t index, const StudyRun& run, RunState state)> on_run;
  std::function<void(const StudyRun& run, std::int64_t first_step)> on_start;
  std::function<void(const StepRecord&)> on_step;
  std::function<void(const StudyRun& run, const std::string& error)> on_failure;
  std::function<bool()> should_stop;
};

/// Carries out what is not finished, and writes results.jsonl after every run. True when every run is finished.
bool run_study(const Study& study, const std::filesystem::path& folder, const StudyControl& control);

/// What came of one arm: means over its finished seeds; NaN where nothing was measured.
struct ArmSummary {
  std::string arm;
  std::int64_t seeds = 0;
  double validation_loss = 0, bits_per_byte = 0, destroyed_ratio = 0, null_destroyed_ratio = 0, destroyed_excess = 0;
  double tokens_per_second = 0, wall_seconds = 0;
};
std::vector<ArmSummary> summarise(const Study& study, const std::filesystem::path& folder);

}  // namespace lmhead
