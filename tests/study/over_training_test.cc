// What of observers' figures gets into rows and statistics.
#include "lmhead/study/over_training.h"

#include <gtest/gtest.h>

#include "lmhead/statistics/statistics.h"

namespace lmhead {
namespace {

TEST(OverTraining, KeepsWhatLinesHaveUnderAPath) {
  const std::vector<Json> log = {{{"step", 1}, {"a", {{"b", 2}}}}, {{"step", 2}}, {{"step", 4}, {"a", {{"b", 3}}}}};
  EXPECT_EQ(kept_over_training(log, "a.b"), (Json{{"step", {1, 4}}, {"value", {2, 3}}}));
  EXPECT_TRUE(kept_over_training(log, "a.c").is_null());
}

TEST(OverTraining, SummarisesNumbersWhereverTheyStandOverTheStepsThatAllRowsHave) {
  const auto row = [](double first, double second, std::vector<int> steps) {
    Json kept = {{"step", steps}, {"value", Json::array()}};
    for (const int step : steps) kept["value"].push_back({{"list", {first, second * step}}, {"word", "x"}});
    return RunRow{.keep = {{"figures", kept}, {"scalar", 3}, {"torn", {{"step", {1, 2}}, {"value", {1}}}}}};
  };
  const RunRow rows[] = {row(1, 10, {1, 2}), row(2, 20, {1, 2}), row(6, 60, {1, 2, 3})};
  const Json observed = mean_over_training({&rows[0], &rows[1], &rows[2]});
  ASSERT_EQ(observed.size(), 1u);
  const Json& curve = observed.at("figures");
  EXPECT_EQ(curve.at("step"), (Json{1, 2}));
  EXPECT_DOUBLE_EQ(curve["mean"][0]["list"][0].get<double>(), 3);
  EXPECT_DOUBLE_EQ(curve["mean"][1]["list"][1].get<double>(), 60);
  EXPECT_TRUE(curve["mean"][0]["word"].is_null());
  const Interval expected = *t_interval({1, 2, 6});
  EXPECT_DOUBLE_EQ(curve["low"][0]["list"][0].get<double>(), expected.low);
  EXPECT_DOUBLE_EQ(curve["high"][0]["list"][0].get<double>(), expected.high);
  const Json alone = mean_over_training({&rows[0]});
  EXPECT_TRUE(alone["figures"]["low"][0]["list"][0].is_null());
}

}  // namespace
}  // namespace lmhead
