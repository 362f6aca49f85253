// Studies whose runs are asked tasks: as the outcome, or beside it in the confirmation runs alone.
#include "lmhead/base/files.h"
#include "lmhead/study/study_statistics.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

class DownstreamStudy : public StudyTest {
 protected:
  std::string write_requests(std::int64_t answer) const {
    const Json document = {{"requests", {{{1, 8, 43}, {answer}}, {{1, 8, 43}, {5}}}},
                           {"gold", 0},
                           {"characters", {1, 1}},
                           {"gold_bytes", 2}};
    const auto task = [&](const char* name) { return Json{{"name", name}, {"documents", {document}}}; };
    const Json requests = {{"format", "lmhead-requests"},
                           {"version", 1},
                           {"tokenizer_hash", "bytes"},
                           {"tasks", {task("first"), task("second")}}};
    write_file_atomic(scratch_ / "requests.json", requests.dump());
    return (scratch_ / "requests.json").string();
  }
  int steps_of(const Json& json, const std::string& folder) const {
    const Study study = read_study(json, {});
    InlineWorkers workers;
    StudyProgress progress(study, scratch_ / folder, scratch_ / "rows.jsonl");
    EXPECT_TRUE(run_study(progress, workers, workers.control()));
    return workers.steps;
  }
};

TEST_F(DownstreamStudy, TakesAFigureAsItsOutcome) {
  Json json = study_json();
  json["base"]["observe"] = {{"downstream", {{"every", 3}, {"requests", write_requests(26)}}}};
  json["outcome"] = "downstream.average.bits_per_byte";
  json["comparisons"] = {{{"baseline", "full"}}};
  const Study study = read_study(json, {});
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  ASSERT_TRUE(run_study(progress, workers, workers.control()));
  const RowFile rows(scratch_ / "rows.jsonl");
  for (const RunRow& row : rows.rows()) {
    ASSERT_TRUE(row.outcome.has_value());
    EXPECT_EQ(*row.outcome,
              row.observations.at("downstream.first.bits_per_byte").get<double>());  // the tasks are alike
    EXPECT_EQ(row.curve.outcome.size(), 2u);
  }
  const Json statistics = study_statistics(progress);
  EXPECT_TRUE(statistics["comparisons"][0]["mean_difference"].is_number());
}

TEST_F(DownstreamStudy, AsksTheConfirmationRunsAlone) {
  Json json = searching_study_json();
  json["search"]["seeds"] = {100};
  json["search"]["max_extensions"] = 0;
  json["base"].erase("observe");
  json["details"] = {"downstream.*.bits_per_byte"};
  const int silent = steps_of(json, "silent");
  json["confirm"] = {{"observe.downstream.every", 6}, {"observe.downstream.requests", write_requests(26)}};
  const int asked = steps_of(json, "asked");
  EXPECT_EQ(silent, (2 * 3 + 2 * 2) * 6);
  EXPECT_EQ(asked, 2 * 2 * 6);  // the search is that of the study that asked nothing
  EXPECT_EQ(steps_of(json, "again"), 0);

  const RowFile rows(scratch_ / "rows.jsonl");
  for (const RunRow& row : rows.rows()) EXPECT_TRUE(row.phase == "confirm" || row.observations.empty());
  const Study study = read_study(json, {});
  StudyProgress progress(study, scratch_ / "asked", scratch_ / "rows.jsonl");
  const Json statistics = study_statistics(progress);
  const Json& details = statistics["comparisons"][0]["details"];
  ASSERT_EQ(details.size(), 3u);
  EXPECT_EQ(details[0]["figure"], "downstream.first.bits_per_byte");
  EXPECT_EQ(details[2]["figure"], "downstream.average.bits_per_byte");
  EXPECT_EQ(details[2]["mean_difference"], details[0]["mean_difference"]);
}

TEST_F(DownstreamStudy, KnowsRequestsByTheirContent) {
  Json json = study_json();
  json["base"]["observe"] = {{"downstream", {{"every", 6}, {"requests", write_requests(26)}}}};
  EXPECT_EQ(steps_of(json, "one"), 4 * 6);
  fs::copy_file(scratch_ / "requests.json", scratch_ / "elsewhere.json");
  json["base"]["observe"]["downstream"]["requests"] = (scratch_ / "elsewhere.json").string();
  EXPECT_EQ(steps_of(json, "two"), 0);
  json["base"]["observe"]["downstream"]["requests"] = write_requests(27);
  EXPECT_EQ(steps_of(json, "three"), 4 * 6);

  // The folder of a run that was asked something else is not taken for one that was asked this.
  fs::remove(scratch_ / "rows.jsonl");
  const Study study = read_study(json, {});
  StudyProgress progress(study, scratch_ / "one", scratch_ / "rows.jsonl");
  for (const StudyRun& run : progress.plan().runs) EXPECT_NE(progress.state_of(run), RunState::kFinished);
}

TEST_F(DownstreamStudy, MayNotTrainConfirmationRunsOtherwise) {
  Json json = study_json();
  json["confirm"] = {{"training.steps", 12}};
  EXPECT_ERROR(read_study(json, {}), "confirm must hold keys of observe alone");
}

}  // namespace
}  // namespace lmhead
