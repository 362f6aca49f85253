// Carrying a study out: resuming, rows instead of folders, divergence, failure, and what comes of it.
#include "lmhead/study/conduct.h"

#include <cmath>
#include <set>

#include "lmhead/base/build_commit.h"
#include "lmhead/statistics/statistics.h"
#include "lmhead/study/long_form_results.h"
#include "lmhead/study/study_statistics.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using StudyConduct = StudyTest;
using StudyResults = StudyTest;

/// The first of a search's seeds, and no extension: fewer runs.
Json short_search(Json json) {
  json["search"]["seeds"] = {100};
  json["search"]["max_extensions"] = 0;
  return json;
}

/// Rows by folder's parts that clocks do not touch.
std::map<std::string, Json> figures_of_rows(const fs::path& file) {
  std::map<std::string, Json> rows;
  const RowFile all(file);
  for (const RunRow& typed : all.rows()) {
    Json row = write_options(typed);
    for (const char* key : {"wall_seconds", "measure_seconds", "tokens_per_second"}) row.erase(key);
    row["curve"].erase("wall_seconds");
    rows[row["arm"].get<std::string>() + row["searched"].dump() + row["seed"].dump()] = row;
  }
  return rows;
}

TEST_F(StudyConduct, GoesOnWhereItWasStopped) {
  const Study study = read_study(short_search(searching_study_json()), {});
  const fs::path folder = scratch_ / "study";
  InlineWorkers first;
  first.stop_after = 10;  // within the second run
  StudyProgress interrupted(study, folder, folder / "rows.jsonl");
  EXPECT_FALSE(run_study(interrupted, first, first.control()));
  EXPECT_EQ(RowFile(folder / "rows.jsonl").rows().size(), 1u);
  const auto runs = interrupted.plan().runs;
  EXPECT_EQ(interrupted.state_of(runs[0]), RunState::kFinished);
  EXPECT_EQ(interrupted.state_of(runs[1]), RunState::kStarted);
  EXPECT_EQ(interrupted.state_of(runs[2]), RunState::kMissing);

  InlineWorkers second;
  StudyProgress resumed(study, folder, folder / "rows.jsonl");
  EXPECT_TRUE(run_study(resumed, second, second.control(3)));
  EXPECT_EQ(second.most_at_once, 3u);
  EXPECT_EQ(second.starts[0].second, 5);  // the step before which it was stopped

  InlineWorkers whole;
  StudyProgress straight(study, scratch_ / "whole", scratch_ / "whole" / "rows.jsonl");
  EXPECT_TRUE(run_study(straight, whole, whole.control()));
  EXPECT_EQ(figures_of_rows(folder / "rows.jsonl"), figures_of_rows(scratch_ / "whole" / "rows.jsonl"));
}

TEST_F(StudyConduct, NeedsNoRunWhoseRowIsThere) {
  const Study study = read_study(short_search(searching_study_json()), {});
  const fs::path rows = scratch_ / "committed.jsonl";
  InlineWorkers first;
  StudyProgress here(study, scratch_ / "here", rows);
  StudyControl discarding = first.control();
  discarding.discard_runs = true;
  EXPECT_TRUE(run_study(here, first, discarding));
  EXPECT_FALSE(fs::exists(scratch_ / "here" / "runs" / "full" / "optimizer.learning_rate-0.01" / "seed-100"));
  const std::string content = read_file(rows);

  // The same data in another place, on a machine that was killed while it wrote.
  write_dataset(scratch_ / "moved");
  write_text(rows, content + "{\"study\":\"ti");
  const Study moved = read_study(short_search(searching_study_json()), {"data.path=" + (scratch_ / "moved").string()});
  InlineWorkers second;
  StudyProgress there(moved, scratch_ / "there", rows);
  EXPECT_TRUE(run_study(there, second, second.control()));
  EXPECT_EQ(second.steps, 0);
  EXPECT_EQ(read_file(rows), content);
  EXPECT_EQ(study_statistics(here)["comparisons"], study_statistics(there)["comparisons"]);

  // Other data under the same name is not the same run; data that is not there is taken on the rows' word.
  write_dataset(scratch_ / "moved", "other content");
  StudyProgress other(moved, scratch_ / "other", rows);
  EXPECT_EQ(other.row_of(other.plan().runs[0]), nullptr);
  fs::remove_all(scratch_ / "moved");
  StudyProgress absent(moved, scratch_ / "absent", rows);
  EXPECT_EQ(study_statistics(absent)["comparisons"], study_statistics(here)["comparisons"]);
}

TEST_F(StudyConduct, RunsWhatTwoArmsShareOnce) {
  Json json = study_json();
  json["arms"].push_back({{"name", "the same"}, {"set", {{"head.type", "linear"}}}});
  json["comparisons"] = {{{"baseline", "full"}, {"arms", {"the same"}}}};
  const Study study = read_study(json, {});
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  EXPECT_TRUE(run_study(progress, workers, workers.control(4)));
  EXPECT_EQ(workers.steps, 4 * 6);
  const Json compared = study_statistics(progress)["comparisons"][0];
  EXPECT_EQ(compared["mean_difference"], 0);
  EXPECT_EQ(compared["p_value"], 1);
}

TEST_F(StudyConduct, SharesRunsWithOtherStudiesInAFolderOfRows) {
  const fs::path rows = scratch_ / "rows";
  const auto conduct = [&](const Json& json, InlineWorkers& workers) {
    const Study study = read_study(json, {});
    StudyProgress progress(study, scratch_ / study.name, rows / "");
    EXPECT_TRUE(run_study(progress, workers, workers.control()));
    return study_statistics(progress);
  };
  InlineWorkers first;
  conduct(study_json(), first);
  EXPECT_EQ(RowFile(rows / "tiny.jsonl").rows().size(), 4u);

  Json json = study_json();
  json["name"] = "other";
  json["arms"].push_back({{"name", "rank 3"}, {"set", {{"head.type", "low_rank"}, {"head.rank", 3}}}});
  json["comparisons"] = {{{"baseline", "full"}}};
  InlineWorkers second;
  const Json statistics = conduct(json, second);
  EXPECT_EQ(second.steps, 2 * 6);  // rank 3 alone, on two seeds
  EXPECT_EQ(RowFile(rows / "other.jsonl").rows().size(), 2u);
  EXPECT_EQ(statistics["comparisons"][0]["seeds"], Json({0, 3}));

  // A line that another process is writing is left to it.
  write_text(rows / "tiny.jsonl", read_file(rows / "tiny.jsonl") + "{\"study\":\"ti");
  const std::string being_written = read_file(rows / "tiny.jsonl");
  InlineWorkers again;
  conduct(json, again);
  EXPECT_EQ(again.steps, 0);
  EXPECT_EQ(read_file(rows / "tiny.jsonl"), being_written);

  // What the rows of others do not say cannot be had from them.
  Json kept = json;
  kept["name"] = "kept";
  kept["keep"] = {"gradient_retention"};
  InlineWorkers third;
  conduct(kept, third);
  EXPECT_EQ(third.steps, 6 * 6);
  Json accuracy = json;
  accuracy["name"] = "accuracy";
  accuracy["outcome"] = "validation.top1_accuracy";
  InlineWorkers fourth;
  conduct(accuracy, fourth);
  EXPECT_EQ(fourth.steps, 6 * 6);

  // Without the data, rows of the same configuration tell what was read.
  fs::remove_all(scratch_ / "data");
  json["name"] = "absent";
  json["arms"].erase(2);
  const Study absent = read_study(json, {});
  StudyProgress progress(absent, scratch_ / "absent", rows);
  EXPECT_EQ(study_statistics(progress)["runs"]["finished"], 4);
}

TEST_F(StudyConduct, AdoptsRunsThatFinishedWithoutARow) {
  const Study study = read_study(study_json(), {});
  InlineWorkers first, second;
  StudyProgress before(study, scratch_ / "study", scratch_ / "lost.jsonl");
  EXPECT_TRUE(run_study(before, first, first.control()));
  StudyProgress after(study, scratch_ / "study", scratch_ / "rows.jsonl");
  EXPECT_TRUE(run_study(after, second, second.control()));
  EXPECT_EQ(second.steps, 0);
  EXPECT_EQ(figures_of_rows(scratch_ / "lost.jsonl"), figures_of_rows(scratch_ / "rows.jsonl"));
}

TEST_F(StudyConduct, CountsDivergenceAsAResultAndFailureAsNone) {
  Json json = study_json();
  json["seeds"] = {0};
  json["arms"].push_back(
      {{"name", "diverges"},
       {"set", {{"optimizer.type", "sgd"}, {"optimizer.learning_rate", 1e30}, {"training.clip_norm", 0}}}});
  json["comparisons"] = {{{"baseline", "full"}}};
  const auto run = [&](const char* folder) {
    const Study study = read_study(json, {});
    InlineWorkers workers;
    StudyProgress progress(study, scratch_ / folder, scratch_ / folder / "rows.jsonl");
    const bool finished = run_study(progress, workers, workers.control());
    return std::tuple(finished, workers.failures, study_statistics(progress));
  };
  const auto [finished, failures, statistics] = run("first");
  EXPECT_TRUE(finished);
  EXPECT_TRUE(failures.empty());
  EXPECT_EQ(statistics["arms"][2]["diverged"], 1);
  EXPECT_EQ(statistics["arms"][2]["mean"], nullptr);
  EXPECT_EQ(statistics["comparisons"][1]["verdict"], "the arm diverged on 1 of 1 seeds");

  json["arms"].push_back({{"name", "no data"}, {"set", {{"data.path", "/nowhere"}}}});
  json["arms"].push_back({{"name", "too few words"}, {"set", {{"model.vocab_size", 2}}}});
  const auto [all, errors, rest] = run("second");
  EXPECT_FALSE(all);
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_NE(errors[0].find("path must be the folder of a dataset"), std::string::npos) << errors[0];
  EXPECT_EQ(rest["arms"][3]["missing"], 1);
  EXPECT_EQ(rest["arms"][1]["missing"], 0);
}

TEST_F(StudyConduct, RefusesAnOutcomeThatIsNotThere) {
  Json json = study_json();
  json["outcome"] = "validation.lost";
  const Study study = read_study(json, {});
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  EXPECT_FALSE(run_study(progress, workers, workers.control()));
  EXPECT_NE(workers.failures[0].find("outcome must be a path to a number"), std::string::npos) << workers.failures[0];
}

TEST_F(StudyConduct, TellsWhatIsDoneAndWhatItCosts) {
  const Study study = read_study(study_json(), {});
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  const double before = remaining_cost(progress, progress.plan()).flops;
  EXPECT_TRUE(std::isnan(remaining_cost(progress, progress.plan()).seconds));
  InlineWorkers workers;
  StudyControl control = workers.control();
  std::vector<std::size_t> done;
  control.on_status = [&](const StudyStatus& status) {
    EXPECT_EQ(status.known, 4u);
    done.push_back(status.done);
  };
  run_study(progress, workers, control);
  EXPECT_EQ(done, (std::vector<std::size_t>{0, 1, 2, 3, 4}));
  double rows = 0;
  const RowFile all(scratch_ / "rows.jsonl");
  for (const RunRow& row : all.rows()) rows += *row.flops;
  EXPECT_DOUBLE_EQ(before, rows);
  EXPECT_EQ(remaining_cost(progress, progress.plan()).flops, 0);
}

TEST_F(StudyConduct, NamesRunsByWhatCanChangeTheirFiguresAlone) {
  const auto hash_with = [&](const std::vector<std::string>& overrides) {
    const Study study = read_study(study_json(), overrides);
    return configuration_hash(configuration_of(study, study.arms[0], {}, 0));
  };
  const std::string plain = hash_with({});
  EXPECT_EQ(plain, hash_with({"data.path=elsewhere", "training.threads=4", "training.checkpoint_every=3"}));
  EXPECT_EQ(plain, hash_with({"optimizer.type=adamw"}));  // a default written out
  EXPECT_NE(plain, hash_with({"optimizer.learning_rate=0.011"}));
  EXPECT_NE(plain, hash_with({"head.bias=true"}));
}

/// A key that is added must not orphan the rows that there are.
TEST(RunIdentity, OfEveryRowInTheRepositoryIsWhatItWasWhenItRan) {
  std::size_t known = 0, with_groups = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(LMHEAD_STUDY_ROWS)) {
    if (entry.path().extension() != ".jsonl") continue;
    std::istringstream text(read_file(entry.path()));
    for (std::string line; std::getline(text, line); ++known) {
      const Json row = Json::parse(line);
      Json settings = row["settings"];
      // What rows leave out of these groups; that there was something is part of the hash.
      if (settings.contains("training")) settings["training"]["checkpoint_every"] = 7;
      if (settings.contains("data")) settings["data"]["path"] = "elsewhere";
      ASSERT_EQ(configuration_hash(complete_configuration(settings)), row["configuration"]) << entry.path();
      with_groups += line.find("\"groups\":[{") != std::string::npos;
    }
  }
  EXPECT_GT(known, 0u);
  EXPECT_GT(with_groups, 0u);
}

TEST_F(StudyResults, AreLongRowsOfEveryMeasuredFigure) {
  const Study study = read_study(study_json(), {});
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  run_study(progress, workers, workers.control());
  EXPECT_EQ(Json::parse(read_file(scratch_ / "study" / "study.json")), study.json);
  std::istringstream text(read_file(scratch_ / "study" / "results.jsonl"));
  std::map<std::string, int> count;
  std::set<std::string> keys;
  for (std::string line; std::getline(text, line);) {
    const Json row = Json::parse(line);
    std::vector<std::string> names;
    for (const auto& item : row.items()) names.push_back(item.key());
    ASSERT_EQ(names,
              (std::vector<std::string>{"study", "arm", "seed", "run", "step", "tokens", "metric", "value", "unit"}));
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

TEST_F(StudyResults, LeaveOutARunFolderThatIsDamagedAndSaySo) {
  const Study study = read_study(study_json(), {});
  InlineWorkers first, second;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  ASSERT_TRUE(run_study(progress, first, first.control()));
  write_text(scratch_ / "study" / "runs" / "full" / "seed-3" / "summary.json", "[]");
  EXPECT_FALSE(run_study(progress, second, second.control()));
  ASSERT_EQ(second.failures.size(), 1u);
  EXPECT_NE(second.failures[0].find("summary.json must be an object"), std::string::npos) << second.failures[0];
  const std::string text = read_file(scratch_ / "study" / "results.jsonl");
  EXPECT_EQ(text.find("runs/full/seed-3"), std::string::npos);
  EXPECT_NE(text.find("runs/rank-2/seed-3"), std::string::npos);
}

TEST_F(StudyResults, StatisticsAreThoseOfTheRuns) {
  Json json = study_json();
  json["seeds"] = {0, 1, 2};
  json["comparisons"] = {{{"baseline", "full"}}};
  json["details"] = {"validation.loss", "validation.by_frequency.*.loss"};
  json["source"] = {{"reported", {{{"arm", "rank 2"}, {"difference", 0.1}, {"interval", {0.0, 0.2}}}}}};
  const Study study = read_study(json, {});
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  run_study(progress, workers, workers.control());
  const Json statistics = study_statistics(progress);
  std::vector<double> loss[2];
  for (const StudyRun& run : progress.plan().runs)
    loss[run.arm].push_back(figures_of(scratch_ / "study" / run.folder).back()["validation"]["loss"].get<double>());
  for (std::size_t arm = 0; arm < 2; ++arm) {
    EXPECT_NEAR(statistics["arms"][arm]["mean"].get<double>(), mean(loss[arm]), 1e-12);
    EXPECT_NEAR(statistics["arms"][arm]["figures"]["validation.loss"].get<double>(), mean(loss[arm]), 1e-12);
    EXPECT_EQ(statistics["arms"][arm]["curve"]["tokens"], Json({192.0, 384.0}));
  }
  std::vector<double> differences;
  for (std::size_t seed = 0; seed < 3; ++seed) differences.push_back(loss[1][seed] - loss[0][seed]);
  const Json& compared = statistics["comparisons"][0];
  EXPECT_NEAR(compared["mean_difference"].get<double>(), mean(differences), 1e-12);
  EXPECT_NEAR(compared["interval"][0].get<double>(), t_interval(differences)->low, 1e-12);
  EXPECT_EQ(compared["holm_p"], compared["p_value"]);
  EXPECT_EQ(compared["equal_steps"]["budget"], 6.0);
  EXPECT_NEAR(compared["equal_steps"]["mean_difference"].get<double>(), mean(differences), 1e-12);
  EXPECT_LT(compared["equal_flops"]["budget"].get<double>(), statistics["arms"][0]["flops"].get<double>());
  EXPECT_TRUE(compared["source"]["words"].is_string());
  ASSERT_EQ(compared["details"].size(), 3u);  // the loss, and of the two bands of 64 ids
  EXPECT_EQ(compared["details"][0]["figure"], "validation.loss");
  EXPECT_EQ(compared["details"][0]["mean_difference"], compared["mean_difference"]);
  EXPECT_EQ(compared["details"][0]["interval"], compared["interval"]);
  EXPECT_EQ(compared["details"][2]["figure"], "validation.by_frequency.rank 11-100.loss");
  EXPECT_EQ(statistics["runs"]["finished"], 6);
  EXPECT_EQ(statistics["runs"]["commits"], (Json{{build_commit(), 6}}));
  EXPECT_EQ(statistics["runs"]["processors"], (Json{{trained_by_this_process().processor, 6}}));
  EXPECT_GT(statistics["arms"][1]["figures"]["gradient_retention.destroyed_ratio"].get<double>(),
            statistics["arms"][0]["figures"]["gradient_retention.destroyed_ratio"].get<double>());  // rank 2 against 16
}

TEST(UnitOf, KnowsDottedNames) {
  EXPECT_EQ(unit_of("validation.loss"), "nats/token");
  EXPECT_EQ(unit_of("validation.bits_per_byte"), "bits/byte");
  EXPECT_EQ(unit_of("gradient_retention.destroyed_ratio"), "");
}

}  // namespace
}  // namespace lmhead
