// The plan of a study as a function of outcomes: extension at an edge, one key after another, order, shared
// runs.
#include "lmhead/study/plan.h"

#include <cmath>
#include <map>

#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

using StudyPlans = StudyTest;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Outcomes by a formula of the configuration; at most `runs` of them are known, in the order of the plan.
class Landscape {
 public:
  explicit Landscape(std::function<double(const Json&)> outcome) : outcome_(std::move(outcome)) {}
  OutcomeOf known() const {
    return [this](const StudyRun& run) -> std::optional<double> {
      return finished_.count(run.folder) ? std::optional(outcome_(run.configuration)) : std::nullopt;
    };
  }
  /// Carries out, one after another, the first run of the plan that is not finished.
  StudyPlan finish(StudyPlanner& planner, std::size_t most = 1000) {
    while (true) {
      StudyPlan plan = planner.plan(known());
      const auto next = std::find_if(plan.runs.begin(), plan.runs.end(),
                                     [&](const StudyRun& run) { return !finished_.count(run.folder); });
      if (next == plan.runs.end() || order.size() == most) return plan;
      finished_[next->folder] = true;
      order.push_back(*next);
    }
  }
  std::vector<StudyRun> order;

 private:
  std::function<double(const Json&)> outcome_;
  std::map<std::string, bool> finished_;
};

double rate_of(const Json& configuration) { return configuration["optimizer"]["learning_rate"]; }
double distance(double value, double best) { return std::abs(std::log(value / best)); }

TEST_F(StudyPlans, WithoutASearchAreSeedBySeed) {
  const Study study = read_study(study_json(), {});
  StudyPlanner planner(study);
  const StudyPlan plan = planner.plan([](const StudyRun&) { return std::nullopt; });
  std::vector<std::string> folders;
  for (const StudyRun& run : plan.runs) folders.push_back(run.folder);
  EXPECT_EQ(folders, (std::vector<std::string>{"runs/full/seed-0", "runs/rank-2/seed-0", "runs/full/seed-3",
                                               "runs/rank-2/seed-3"}));
  EXPECT_EQ(plan.to_come, 0);
}

TEST_F(StudyPlans, ConfirmTheBestOnOtherSeedsAfterEverySearch) {
  const Study study = read_study(searching_study_json(), {});
  StudyPlanner planner(study);
  Landscape landscape([](const Json& configuration) { return distance(rate_of(configuration), 0.021); });
  const StudyPlan plan = landscape.finish(planner);
  ASSERT_EQ(landscape.order.size(), 2u * 3 * 2 + 2 * 2);
  for (std::size_t index = 0; index < 12; ++index) {
    EXPECT_EQ(landscape.order[index].phase, RunPhase::kSearch);
    EXPECT_EQ(landscape.order[index].arm, index / 6);
    EXPECT_EQ(landscape.order[index].seed, 100 + std::int64_t(index % 2));
  }
  for (std::size_t index = 12; index < 16; ++index) {
    EXPECT_EQ(landscape.order[index].phase, RunPhase::kConfirm);
    EXPECT_EQ(rate_of(landscape.order[index].configuration), 0.02);
    EXPECT_EQ(landscape.order[index].arm, index % 2);
  }
  for (const ArmPlan& arm : plan.arms) EXPECT_EQ(arm.search[0].edge, Edge::kNone);
}

TEST_F(StudyPlans, AreWholeAtAPlaceOfTheGridBeforeTheNextBegins) {
  Json json = searching_study_json();
  json["grid"] = {{"model.norm", {"rmsnorm", "layernorm"}}};
  const Study study = read_study(json, {});
  StudyPlanner planner(study);
  Landscape landscape([](const Json& configuration) { return distance(rate_of(configuration), 0.021); });
  landscape.finish(planner);
  ASSERT_EQ(landscape.order.size(), 2u * 16);
  for (std::size_t index = 0; index < 32; ++index) {
    EXPECT_EQ(landscape.order[index].configuration["model"]["norm"], index < 16 ? "rmsnorm" : "layernorm");
    EXPECT_EQ(landscape.order[index].phase, index % 16 < 12 ? RunPhase::kSearch : RunPhase::kConfirm);
  }
}

TEST_F(StudyPlans, CountWhatIsStillToCome) {
  Json json = searching_study_json();
  json["search"]["keys"]["optimizer.weight_decay"] = {{"values", {0.1, 0.2}}};
  const Study study = read_study(json, {});
  const StudyPlan plan = StudyPlanner(study).plan([](const StudyRun&) { return std::nullopt; });
  EXPECT_EQ(plan.runs.size(), 2u * 3 * 2);
  EXPECT_EQ(plan.to_come, 2 * 2 * 2 + 2 * 2);  // the second key of both arms, and confirmation
}

TEST_F(StudyPlans, SearchAgainWhereTheOtherKeysHaveMoved) {
  Json json = searching_study_json();
  json["base"]["optimizer"]["weight_decay"] = 0.1;
  json["search"]["keys"]["optimizer.weight_decay"] = {{"values", {0.1, 0.2, 0.4}}};
  // The best rate is 0.02 beside the decay of 0.1, and 0.04 beside the best decay, 0.2.
  const auto outcome = [](const Json& configuration) {
    const double decay = configuration["optimizer"]["weight_decay"];
    return 2 * distance(decay, 0.2) + distance(rate_of(configuration), 0.2 * decay);
  };
  for (const int rounds : {1, 2, 5}) {
    json["search"]["rounds"] = rounds;
    const Study study = read_study(json, {});
    StudyPlanner planner(study);
    Landscape landscape(outcome);
    const ArmPlan arm = landscape.finish(planner).arms[0];
    ASSERT_TRUE(arm.searched);
    EXPECT_EQ(arm.best[0].second.get<double>(), rounds == 1 ? 0.02 : 0.04);
    EXPECT_EQ(arm.best[1].second.get<double>(), 0.2);
    EXPECT_EQ(arm.search.size(), 2u * std::min(rounds, 3));  // the third round moves nothing
  }
  json["search"]["rounds"] = 0;
  EXPECT_ERROR(read_study(json, {}), "search.rounds must be an integer from 1 to 64, got 0");
}

TEST_F(StudyPlans, ExtendTheGridWhereTheBestIsAtAnEdge) {
  const Study study = read_study(searching_study_json(), {});
  for (const double best : {0.1, 0.0026}) {
    StudyPlanner planner(study);
    Landscape landscape([&](const Json& configuration) { return distance(rate_of(configuration), best); });
    const KeySearch search = landscape.finish(planner).arms[0].search[0];
    EXPECT_EQ(search.values, best > 0.04 ? (std::vector<double>{0.01, 0.02, 0.04, 0.08, 0.16})
                                         : (std::vector<double>{0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04}));
    EXPECT_EQ(search.best, best > 0.04 ? 0.08 : 0.0025);
    EXPECT_EQ(search.edge, Edge::kNone);
  }
}

TEST_F(StudyPlans, SayThatTheBestIsAtAnEdgeOnceExtensionsAreSpent) {
  Json json = searching_study_json();
  json["search"]["max_extensions"] = 2;
  const Study study = read_study(json, {});
  StudyPlanner planner(study);
  Landscape landscape([](const Json& configuration) { return -rate_of(configuration); });
  const StudyPlan plan = landscape.finish(planner);
  EXPECT_EQ(plan.arms[0].search[0].best, 0.16);
  EXPECT_EQ(plan.arms[0].search[0].edge, Edge::kHigh);
  EXPECT_TRUE(plan.arms[0].searched);
}

TEST_F(StudyPlans, TakeADivergedRunForInfinitelyBad) {
  const Study study = read_study(searching_study_json(), {});
  StudyPlanner planner(study);
  Landscape landscape([](const Json& configuration) {
    const bool unlucky = configuration["training"]["seed"] == 101 && rate_of(configuration) > 0.015;
    return unlucky ? kInfinity : -rate_of(configuration);
  });
  const KeySearch search = landscape.finish(planner).arms[0].search[0];
  EXPECT_EQ(search.best, 0.01);
  EXPECT_EQ(search.values.front(), 0.005);  // 0.01 was at the lower edge
  Landscape hopeless([](const Json&) { return kInfinity; });
  StudyPlanner second(study);
  const KeySearch down = hopeless.finish(second).arms[0].search[0];
  EXPECT_EQ(down.best, down.values.front());
  EXPECT_EQ(down.edge, Edge::kLow);
}

TEST_F(StudyPlans, SearchOneKeyAtTheBestOfTheOthers) {
  Json json = searching_study_json();
  json["search"]["keys"]["optimizer.weight_decay"] = {{"values", {0.1, 0.2, 0.4}}};
  const Study study = read_study(json, {});
  StudyPlanner planner(study);
  Landscape landscape([](const Json& configuration) {
    return distance(rate_of(configuration), 0.02) +
           distance(configuration["optimizer"]["weight_decay"].get<double>(), 0.2);
  });
  const StudyPlan plan = landscape.finish(planner);
  EXPECT_EQ(plan.arms[1].best, (KeyValues{{"optimizer.learning_rate", 0.02}, {"optimizer.weight_decay", 0.2}}));
  for (const StudyRun& run : plan.arms[1].search_runs) {
    if (run.searched.size() == 2) {
      EXPECT_EQ(rate_of(run.configuration), 0.02);
    }
  }
}

TEST_F(StudyPlans, PreferTheHigherOutcomeWhereThatIsBetter) {
  Json json = searching_study_json();
  json["higher_is_better"] = true;
  const Study study = read_study(json, {});
  StudyPlanner planner(study);
  Landscape landscape([](const Json& configuration) { return -distance(rate_of(configuration), 0.02); });
  EXPECT_EQ(landscape.finish(planner).arms[0].search[0].best, 0.02);
}

}  // namespace
}  // namespace lmhead
