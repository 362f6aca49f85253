// A study: what runs it is made of, and what becomes of finished, interrupted and failing ones.
#include "lmhead/study/study.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "lmhead/study/results.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

class StudyTest : public testing::Test {
 protected:
  void SetUp() override { write_dataset(scratch_ / "data"); }
  Json study_json() const {
    Json base = tiny_configuration(scratch_ / "data");
    base["training"]["steps"] = 6;
    base["training"]["validate_every"] = 3;
    base["observe"] = {{"gradient_retention", {{"every", 2}}}};
    return {{"name", "tiny"},
            {"base", base},
            {"arms",
             {{{"name", "full"}, {"set", {{"head.type", "linear"}}}},
              {{"name", "rank 2"}, {"set", {{"head.type", "low_rank"}, {"head.rank", 2}}}}}},
            {"seeds", {0, 3}}};
  }
  ScratchFolder scratch_;
};
using StudyRuns = StudyTest;
using StudyResults = StudyTest;

/// What happened in one call of run_study.
struct Events {
  std::vector<RunState> states;
  std::vector<std::pair<std::string, std::int64_t>> starts;  // folder, first step
  std::vector<std::string> failures;
  int steps = 0;
  int stop_after = -1;

  StudyControl control() {
    return {.on_run = [this](std::size_t, const StudyRun&, RunState state) { states.push_back(state); },
            .on_start = [this](const StudyRun& run,
                               std::int64_t first) { starts.emplace_back(run.folder, first); },
            .on_step = [this](const StepRecord&) { ++steps; },
            .on_failure = [this](const StudyRun&, const std::string& error) { failures.push_back(error); },
            .should_stop = [this] { return stop_after >= 0 && steps >= stop_after; }};
  }
};

std::vector<std::string> folders_of(const std::vector<StudyRun>& runs) {
  std::vector<std::string> folders;
  for (const StudyRun& run : runs) folders.push_back(run.folder);
  return folders;
}

TEST_F(StudyRuns, AreArmsTimesGridTimesSeedsSeedBySeed) {
  Json json = study_json();
  json["grid"] = {{"optimizer.learning_rate", {0.1, 0.2}}, {"model.norm", {"rmsnorm", "layernorm"}}};
  const Study study = read_study(json, {});
  const auto runs = runs_of(study);
  ASSERT_EQ(runs.size(), 2u * 4 * 2);
  EXPECT_EQ(runs[0].folder, "runs/full-optimizer.learning_rate-0.1-model.norm-rmsnorm/seed-0");
  EXPECT_EQ(runs[7].folder, "runs/rank-2-optimizer.learning_rate-0.2-model.norm-layernorm/seed-0");
  EXPECT_EQ(runs[8].seed, 3);
  std::set<std::string> seen;
  for (const StudyRun& run : runs) {
    EXPECT_TRUE(seen.insert(run.configuration.dump()).second);
    EXPECT_EQ(run.configuration["training"]["seed"], run.seed);
    EXPECT_EQ(run.configuration, complete_configuration(run.configuration));
  }
  EXPECT_EQ(runs[7].configuration["head"]["rank"], 2);
  EXPECT_EQ(runs[7].configuration["optimizer"]["learning_rate"], 0.2);
  EXPECT_EQ(runs[7].configuration["model"]["norm"], "layernorm");
}

TEST_F(StudyRuns, ArmsGridAndSeedsMayBeLeftOut) {
  Json json = study_json();
  json.erase("arms");
  json.erase("seeds");
  EXPECT_EQ(folders_of(runs_of(read_study(json, {}))), (std::vector<std::string>{"runs/base/seed-0"}));
  json["grid"] = {{"training.steps", {1, 2}}};
  EXPECT_EQ(folders_of(runs_of(read_study(json, {}))),
            (std::vector<std::string>{"runs/training.steps-1/seed-0", "runs/training.steps-2/seed-0"}));
}

TEST_F(StudyRuns, OverridesReplaceValuesOfTheBase) {
  const Study study = read_study(study_json(), {"training.steps=9", "model.norm=layernorm"});
  for (const StudyRun& run : runs_of(study)) {
    EXPECT_EQ(run.configuration["training"]["steps"], 9);
    EXPECT_EQ(run.configuration["model"]["norm"], "layernorm");
  }
  EXPECT_EQ(study.json["base"]["training"]["steps"], 9);
}

TEST_F(StudyRuns, WrongStudiesAreRefusedBeforeAnythingRuns) {
  const auto error_with = [&](const char* key, const Json& value) {
    Json json = study_json();
    json[key] = value;
    return error_of([&] { runs_of(read_study(json, {})); });
  };
  const auto expect = [](const std::string& part, const std::string& text) {
    EXPECT_NE(text.find(part), text.npos) << text;
  };
  expect("did you mean seeds?", error_with("seed", {1}));
  expect("seeds must be integers of at least 0, got -1", error_with("seeds", {-1}));
  expect("seeds must hold at least one seed", error_with("seeds", Json::array()));
  expect("arms must be a list of arms, got object", error_with("arms", Json::object()));
  expect("arms must hold at least one arm", error_with("arms", Json::array()));
  expect("arms.nam must be a known key", error_with("arms", {{{"nam", "x"}}}));
  expect("twice", error_with("arms", {{{"name", "a b"}}, {{"name", "a/b"}}}));
  expect("head.rnk must be a known key",
         error_with("arms", {{{"name", "x"}, {"set", {{"head.type", "low_rank"}, {"head.rnk", 2}}}}}));
  expect("grid.training.steps must be a list of values", error_with("grid", {{"training.steps", 3}}));
  expect("name must be a text, got number", error_with("name", 3));
  EXPECT_ERROR(read_study(Json::array(), {}), "a study must be an object");
}

TEST_F(StudyRuns, FinishedOnesAreSkippedAndInterruptedOnesGoOn) {
  const Study study = read_study(study_json(), {});
  Events first{.stop_after = 9};  // asked before the tenth step is counted, within the second run
  EXPECT_FALSE(run_study(study, scratch_ / "study", first.control()));
  EXPECT_EQ(first.steps, 10);
  const auto runs = runs_of(study);
  const RunState want[] = {RunState::kFinished, RunState::kStarted, RunState::kMissing, RunState::kMissing};
  for (std::size_t index = 0; index < 4; ++index)
    EXPECT_EQ(state_of(runs[index], scratch_ / "study"), want[index]);

  Events second;
  EXPECT_TRUE(run_study(study, scratch_ / "study", second.control()));
  EXPECT_EQ(second.states, (std::vector<RunState>(want, want + 4)));
  EXPECT_EQ(second.starts, (std::vector<std::pair<std::string, std::int64_t>>{
                               {runs[1].folder, 4}, {runs[2].folder, 0}, {runs[3].folder, 0}}));
  EXPECT_EQ(second.steps, 2 + 6 + 6);

  Events third;
  EXPECT_TRUE(run_study(study, scratch_ / "study", third.control()));
  EXPECT_EQ(third.steps, 0);

  Events whole;
  EXPECT_TRUE(run_study(study, scratch_ / "whole", whole.control()));
  for (const StudyRun& run : runs)
    EXPECT_EQ(figures_of(scratch_ / "whole" / run.folder), figures_of(scratch_ / "study" / run.folder))
        << run.folder;
}

TEST_F(StudyRuns, AFailedArmDoesNotStopTheOthers) {
  Json json = study_json();
  json["seeds"] = {0};
  json["arms"].insert(
      json["arms"].begin(),
      Json{{"name", "diverges"},
           {"set",
            {{"optimizer.type", "sgd"}, {"optimizer.learning_rate", 1e30}, {"training.clip_norm", 0}}}});
  json["arms"].push_back({{"name", "no data"}, {"set", {{"data.path", "/nowhere"}}}});
  const Study study = read_study(json, {});
  Events events;
  EXPECT_FALSE(run_study(study, scratch_ / "study", events.control()));
  ASSERT_EQ(events.failures.size(), 2u);
  EXPECT_NE(events.failures[0].find("must be finite"), std::string::npos) << events.failures[0];
  EXPECT_NE(events.failures[1].find("path must be the folder of a dataset"), std::string::npos)
      << events.failures[1];
  const auto summaries = summarise(study, scratch_ / "study");
  ASSERT_EQ(summaries.size(), 4u);
  EXPECT_EQ(summaries[0].seeds, 0);
  EXPECT_TRUE(std::isnan(summaries[0].validation_loss));
  EXPECT_EQ(summaries[1].seeds, 1);
  EXPECT_EQ(summaries[2].seeds, 1);
}

TEST_F(StudyRuns, ThatNeedMoreMemoryThanThereIsDoNotStopTheOthers) {
  Json json = study_json();
  json["seeds"] = {0};
  json["arms"].insert(json["arms"].begin(),
                      Json{{"name", "too large"}, {"set", {{"model.vocab_size", std::int64_t(1) << 50}}}});
  Events events;
  EXPECT_FALSE(run_study(read_study(json, {}), scratch_ / "study", events.control()));
  EXPECT_EQ(events.failures.size(), 1u);
  EXPECT_EQ(events.steps, 12);
}

TEST_F(StudyResults, AreLongRowsOfEveryMeasuredFigure) {
  const Study study = read_study(study_json(), {});
  Events events;
  run_study(study, scratch_ / "study", events.control());
  EXPECT_EQ(Json::parse(read_file(scratch_ / "study" / "study.json")), study.json);
  std::istringstream text(read_file(scratch_ / "study" / "results.jsonl"));
  std::map<std::string, int> count;
  std::set<std::string> keys;
  for (std::string line; std::getline(text, line);) {
    const Json row = Json::parse(line);
    std::vector<std::string> names;
    for (const auto& item : row.items()) names.push_back(item.key());
    ASSERT_EQ(names, (std::vector<std::string>{"study", "arm", "seed", "run", "step", "tokens", "metric",
                                               "value", "unit"}));
    EXPECT_EQ(row["study"], "tiny");
    EXPECT_TRUE(row["value"].is_number()) << line;
    EXPECT_EQ(row["tokens"], row["step"].get<int>() * 64);
    const std::string metric = row["metric"];
    EXPECT_EQ(row["unit"], unit_of(metric));
    EXPECT_TRUE(keys.insert(Json{row["arm"], row["seed"], row["step"], row["metric"]}.dump()).second) << line;
    ++count[metric];
    if (metric != "validation.loss") continue;
    const Json logged =
        figures_of(scratch_ / "study" / row["run"].get<std::string>())[row["step"].get<std::size_t>() - 1];
    EXPECT_EQ(row["value"], logged["validation"]["loss"]);
  }
  EXPECT_EQ(count["validation.loss"], 4 * 2);                     // runs, validations
  EXPECT_EQ(count["gradient_retention.destroyed_ratio"], 4 * 3);  // runs, measurements
  EXPECT_EQ(count["tokens_per_second"], 4);
  EXPECT_EQ(count["parameters_head"], 4);
}

TEST_F(StudyResults, SummariesAreMeansOverSeeds) {
  const Study study = read_study(study_json(), {});
  Events events;
  run_study(study, scratch_ / "study", events.control());
  const auto summaries = summarise(study, scratch_ / "study");
  ASSERT_EQ(summaries.size(), 2u);
  for (const ArmSummary& arm : summaries) {
    double loss = 0, destroyed = 0;
    for (const StudyRun& run : runs_of(study)) {
      if (run.arm != arm.arm) continue;
      const Json last = figures_of(scratch_ / "study" / run.folder).back();
      loss += last["validation"]["loss"].get<double>() / 2;
      destroyed += last["gradient_retention"]["destroyed_ratio"].get<double>() / 2;
    }
    EXPECT_EQ(arm.seeds, 2);
    EXPECT_NEAR(arm.validation_loss, loss, 1e-12);
    EXPECT_NEAR(arm.destroyed_ratio, destroyed, 1e-12);
    EXPECT_NEAR(arm.destroyed_excess, arm.destroyed_ratio - arm.null_destroyed_ratio, 1e-12);
  }
  EXPECT_GT(summaries[1].destroyed_ratio, summaries[0].destroyed_ratio);  // rank 2 against 16
}

TEST(UnitOf, KnowsDottedNames) {
  EXPECT_EQ(unit_of("validation.loss"), "nats/token");
  EXPECT_EQ(unit_of("validation.bits_per_byte"), "bits/byte");
  EXPECT_EQ(unit_of("gradient_retention.destroyed_ratio"), "");
}

}  // namespace
}  // namespace lmhead
