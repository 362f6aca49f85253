// Whether early figures tell how runs end: what is read of rows, the rule for the words, and a study.
#include "lmhead/study/correlations.h"

#include <cmath>

#include "lmhead/statistics/rank_correlation.h"
#include "lmhead/study/study_statistics.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

TEST(ObservedAt, ReadsWhatRowsHoldOverTraining) {
  const Json json = parse_json(R"({
    "keep": {"a": {"step": [1, 2], "value": [{"b": 0.25}, {"b": 0.5, "c": {"d": 3}}]}, "a.e": 7,
             "f.g": {"step": [2], "value": [9]}, "h": {"step": [1], "value": []}},
    "observation_curves": {"a.e": {"step": [2], "value": [8]}, "f.gg": {"step": [1], "value": [10]}}})",
                               "row");
  const RunRow row{.keep = json["keep"], .observation_curves = json["observation_curves"]};
  EXPECT_EQ(observed_at(row, "a.b", 1), 0.25);
  EXPECT_EQ(observed_at(row, "a.c.d", 2), 3);
  EXPECT_EQ(observed_at(row, "a.e", 2), 8);  // `keep` has but the last
  EXPECT_EQ(observed_at(row, "f.g", 2), 9);
  EXPECT_EQ(observed_at(row, "f.gg", 1), 10);
  for (const char* name : {"a.c.d", "f.g", "h", "nowhere"}) EXPECT_FALSE(observed_at(row, name, 1).has_value()) << name;
  EXPECT_FALSE(observed_at(RunRow{}, "a", 1).has_value());
}

TEST(CorrelationVerdict, NeedsIntervalAndCorrectedTestToAgree) {
  const auto words = [](double rho, Interval interval, double holm_p, std::optional<double> margin = {}) {
    return decide_correlation(rho, interval, holm_p, margin, "final loss").words;
  };
  EXPECT_EQ(words(0.6, {0.3, 0.8}, 0.01), "predicts: the larger it is, the higher the final loss, +0.60 [0.30, 0.80]");
  EXPECT_EQ(words(-0.6, {-0.8, -0.3}, 0.01),
            "predicts: the larger it is, the lower the final loss, -0.60 [-0.80, -0.30]");
  EXPECT_EQ(words(0.6, {0.3, 0.8}, 0.05), "undecided: anything from 0.30 to 0.80 is possible");
  EXPECT_EQ(words(0.2, {-0.1, 0.4}, 0.01), "undecided: anything from -0.10 to 0.40 is possible");
  EXPECT_EQ(words(0.1, {-0.3, 0.4}, 0.6, 0.5), "no correlation stronger than 0.40 shown");
  EXPECT_EQ(words(0.1, {-0.45, 0.4}, 0.6, 0.5), "no correlation stronger than 0.45 shown");
  EXPECT_EQ(words(0.1, {-0.3, 0.5}, 0.6, 0.5), "undecided: anything from -0.30 to 0.50 is possible");
  EXPECT_EQ(decide_correlation(std::nan(""), {}, {}, {}, "").finding, CorrelationFinding::kUndecided);
}

using StudyCorrelations = StudyTest;

TEST_F(StudyCorrelations, AreOfEveryRunOfTheStudyAveragedOverSeeds) {
  Json json = searching_study_json();
  const Json predictors = {"gradient_retention.destroyed_ratio", "gradient_retention.head_rank", "nowhere"};
  json["search"]["max_extensions"] = 0;
  Json early = {{"predictors", predictors}, {"at_step", 2}, {"given", {"optimizer.learning_rate"}}};
  Json late = {{"predictors", predictors}, {"at_step", 4}, {"outcome", "progress"}, {"within", {"head"}}};
  json["correlations"] = Json::array({early, late});
  const Study study = read_study(json, {});
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  ASSERT_TRUE(run_study(progress, workers, workers.control()));
  const Json list = study_statistics(progress)["correlations"];
  ASSERT_EQ(list.size(), 6u);

  struct Setting {
    double destroyed = 0, loss = 0, late_destroyed = 0, progress = 0, runs = 0;
  };
  std::map<std::pair<std::size_t, double>, Setting> settings;
  for (const StudyRun& run : progress.plan().runs) {
    Setting& setting = settings[{run.arm, run.configuration["optimizer"]["learning_rate"]}];
    const auto log = figures_of(scratch_ / "study" / run.folder);
    const double half = log[2]["validation"]["loss"], end = log[5]["validation"]["loss"];
    setting.destroyed += log[1]["gradient_retention"]["destroyed_ratio"].get<double>();
    setting.late_destroyed += log[3]["gradient_retention"]["destroyed_ratio"].get<double>();
    setting.loss += end;
    setting.progress += (half - end) * (1 - std::log(4.0 / 3) / std::log(6.0 / 3));  // from step 4 on
    setting.runs += 1;
  }
  ASSERT_EQ(settings.size(), 6u);  // arms, rates: the best ones were run on more seeds
  std::vector<double> destroyed, loss, late_destroyed, gained, rate;
  std::vector<std::size_t> arm;
  for (const auto& [key, sum] : settings) {
    arm.push_back(key.first), rate.push_back(key.second);
    destroyed.push_back(sum.destroyed / sum.runs), loss.push_back(sum.loss / sum.runs);
    late_destroyed.push_back(sum.late_destroyed / sum.runs), gained.push_back(sum.progress / sum.runs);
  }
  const auto expect = [](const Json& one, const PartialCorrelation& partial, double rho) {
    EXPECT_EQ(one["runs"], 2 * 3 * 2 + 2 * 2);
    EXPECT_EQ(one["settings"], 6);
    EXPECT_EQ(one["left_out"], 0);
    EXPECT_NEAR(one["rho"].get<double>(), rho, 1e-12);
    EXPECT_NEAR(one["partial_rho"].get<double>(), partial.rho, 1e-12);
    EXPECT_EQ(one["degrees_of_freedom"], partial.degrees_of_freedom);
    EXPECT_NEAR(one["p_value"].get<double>(), correlation_test(partial).value(), 1e-12);
    EXPECT_GE(one["holm_p"].get<double>(), one["p_value"].get<double>());
    EXPECT_LE(one["partial_interval"][0].get<double>(), one["partial_interval"][1].get<double>());
  };
  expect(list[0], partial_spearman(destroyed, loss, {{rate}, {}}), spearman_correlation(destroyed, loss));
  expect(list[3], partial_spearman(late_destroyed, gained, {{}, {arm}}), spearman_correlation(late_destroyed, gained));
  EXPECT_TRUE(list[4]["partial_rho"].is_null());  // the rank of a head is all of its category
  EXPECT_EQ(list[2]["left_out"], 16);
  EXPECT_EQ(list[2]["finding"], "undecided");
  EXPECT_TRUE(list[2]["rho"].is_null());
}

}  // namespace
}  // namespace lmhead
