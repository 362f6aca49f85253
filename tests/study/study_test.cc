// Reading a study: arms, grid, search and comparisons, and what is refused.
#include "lmhead/study/study.h"

#include <set>

#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

using StudyFile = StudyTest;

std::vector<std::string> names_of(const Study& study) {
  std::vector<std::string> names;
  for (const StudyArm& arm : study.arms) names.push_back(arm.name);
  return names;
}

TEST_F(StudyFile, MultipliesArmsByTheGrid) {
  Json json = study_json();
  json["grid"] = {{"optimizer.learning_rate", {0.1, 0.2}}, {"model.norm", {"rmsnorm", "layernorm"}}};
  const Study study = read_study(json, {});
  ASSERT_EQ(study.arms.size(), 8u);
  EXPECT_EQ(study.arms[0].name, "full optimizer.learning_rate=0.1 model.norm=rmsnorm");
  EXPECT_EQ(study.arms[7].choice, "rank 2");
  std::set<std::string> seen;
  for (const StudyArm& arm : study.arms) {
    const Json configuration = configuration_of(study, arm, {}, 3);
    EXPECT_TRUE(seen.insert(configuration.dump()).second);
    EXPECT_EQ(configuration["training"]["seed"], 3);
    EXPECT_EQ(configuration, complete_configuration(configuration));
  }
  const Json last = configuration_of(study, study.arms[7], {}, 0);
  EXPECT_EQ(last["head"]["rank"], 2);
  EXPECT_EQ(last["optimizer"]["learning_rate"], 0.2);
  EXPECT_EQ(last["model"]["norm"], "layernorm");
}

TEST_F(StudyFile, HasPlacesThatSetSeveralKeysAtOnce) {
  Json json = searching_study_json();
  json["arms"].push_back(
      {{"name", "fixed"}, {"set", {{"head.type", "low_rank"}, {"head.rank", 2}}}, {"search", false}});
  json["grid"] = {{"size",
                   {{{"name", "0.3 M, V/D = 8"},
                     {"set", {{"model.hidden_size", 16}, {"training.steps", 5}}},
                     {"arms", {{"rank 2", {{"head.rank", 4}}}}}},
                    {{"name", "1 M"},
                     {"set", {{"model.hidden_size", 32}}},
                     {"search", {{"keys", {{"optimizer.learning_rate", {{"values", {0.5}}}}}}, {"rounds", 2}}}}}},
                  {"model.norm", {"rmsnorm", "layernorm"}}};
  const Study study = read_study(json, {});
  ASSERT_EQ(study.arms.size(), 12u);
  const auto arm_called = [&](const std::string& name) {
    const auto found = std::ranges::find(study.arms, name, &StudyArm::name);
    EXPECT_NE(found, study.arms.end()) << name;
    return *found;
  };
  const StudyArm small = arm_called("rank 2 at 0.3 M, V/D = 8 model.norm=layernorm");
  const Json configuration = configuration_of(study, small, {}, 0);
  EXPECT_EQ(configuration["model"]["hidden_size"], 16);
  EXPECT_EQ(configuration["training"]["steps"], 5);
  EXPECT_EQ(configuration["model"]["norm"], "layernorm");
  EXPECT_EQ(configuration["head"]["rank"], 4);
  EXPECT_EQ(small.grid, (KeyValues{{"size", "0.3 M, V/D = 8"}, {"model.norm", "layernorm"}}));
  EXPECT_EQ(small.search.keys[0].values.size(), 3u);
  const StudyArm large = arm_called("rank 2 at 1 M model.norm=rmsnorm");
  EXPECT_EQ(configuration_of(study, large, {}, 0)["head"]["rank"], 2);
  EXPECT_EQ(configuration_of(study, large, {}, 0)["training"]["steps"], 6);
  EXPECT_EQ(large.search.keys[0].values, (std::vector<double>{0.5}));
  EXPECT_EQ(large.search.rounds, 2);
  EXPECT_EQ(large.search.seeds, (std::vector<std::int64_t>{100, 101}));
  EXPECT_TRUE(arm_called("fixed at 1 M model.norm=rmsnorm").search.keys.empty());  // what is not searched is nowhere
  EXPECT_EQ(study.comparisons.size(), 8u);
}

TEST_F(StudyFile, HasPlacesThatAreRefusedWhereTheyAreWrong) {
  const auto error_with = [&](const Json& places) {
    Json json = study_json();
    json["grid"] = {{"size", places}, {"training.steps", {1, 2}}};
    return error_of([&] {
      const Study study = read_study(json, {});
      StudyPlanner(study).plan([](const StudyRun&) { return std::nullopt; });
    });
  };
  const auto expect = [](const std::string& part, const std::string& text) {
    EXPECT_NE(text.find(part), text.npos) << text;
  };
  const Json good = {{"name", "small"}, {"set", {{"model.hidden_size", 16}}}};
  const auto with = [&](const char* key, const Json& value) {
    Json place = good;
    place[key] = value;
    return Json::array({place});
  };
  EXPECT_EQ(error_with(Json::array({good})), "no error");
  expect("grid.size must be objects with name and set where one of them is, got 16",
         error_with(Json::array({good, 16})));
  expect("name must be a text", error_with(Json::array({{{"set", Json::object()}}})));
  expect("grid.size.name must be 1 to 200 bytes", error_with(with("name", "../up")));
  expect("grid.size must have names that differ, got \"small\" twice", error_with(Json::array({good, good})));
  expect("grid.size.sets must be a known key, did you mean set?", error_with(with("sets", 1)));
  expect("grid.size.set must be an object of key.path: value, got array", error_with(with("set", {1})));
  expect("grid.size.arms must be names of arms, got \"rank 3\"",
         error_with(with("arms", {{"rank 3", Json::object()}})));
  expect("grid.size.arms.full must be an object", error_with(with("arms", {{"full", 1}})));
  expect("must set no key that arm full sets already, got \"head.type\"",
         error_with(with("set", {{"head.type", "linear"}})));
  expect("sets already, got \"training.steps\"", error_with(with("set", {{"training.steps", 3}})));
  expect("model.hiden_size must be a known key", error_with(with("set", {{"model.hiden_size", 16}})));
  expect("grid.size.search.key must be a known key", [&] {
    Json json = searching_study_json();
    json["grid"] = {{"size", with("search", {{"key", 1}})}};
    return error_of([&] { read_study(json, {}); });
  }());
}

TEST_F(StudyFile, MayLeaveOutArmsGridAndSeeds) {
  Json json = study_json();
  json.erase("arms");
  json.erase("seeds");
  EXPECT_EQ(names_of(read_study(json, {})), (std::vector<std::string>{"base"}));
  EXPECT_EQ(read_study(json, {}).seeds, (std::vector<std::int64_t>{0}));
  json["grid"] = {{"training.steps", {1, 2}}};
  EXPECT_EQ(names_of(read_study(json, {})), (std::vector<std::string>{"training.steps=1", "training.steps=2"}));
  json["grid"] = {{"size", Json::array({{{"name", "small"}, {"set", {{"model.hidden_size", 16}}}}})}};
  EXPECT_EQ(names_of(read_study(json, {})), (std::vector<std::string>{"small"}));
}

TEST_F(StudyFile, TakesOverridesForItsBase) {
  const Study study = read_study(study_json(), {"training.steps=9", "model.norm=layernorm"});
  for (const StudyArm& arm : study.arms) {
    const Json configuration = configuration_of(study, arm, {}, 0);
    EXPECT_EQ(configuration["training"]["steps"], 9);
    EXPECT_EQ(configuration["model"]["norm"], "layernorm");
  }
  EXPECT_EQ(study.json["base"]["training"]["steps"], 9);
}

TEST_F(StudyFile, LetsAnArmSearchOtherValuesMoreKeysOrNothing) {
  Json json = searching_study_json();
  json["base"]["optimizer"]["groups"] = {{{"pattern", "lm_head.*"}}};
  json["arms"][0]["search"] = false;
  json["arms"][1]["search"] = {{"keys",
                                {{"optimizer.learning_rate", {{"values", {4, 2}}, {"factor", 3}}},
                                 {"optimizer.groups.0.learning_rate_scale", {{"values", {1}}}}}},
                               {"max_extensions", 1}};
  const Study study = read_study(json, {});
  EXPECT_TRUE(study.arms[0].search.keys.empty());
  const SearchOptions& own = study.arms[1].search;
  ASSERT_EQ(own.keys.size(), 2u);
  EXPECT_EQ(own.keys[0].values, (std::vector<double>{2, 4}));
  EXPECT_EQ(own.keys[0].factor, 3);
  EXPECT_EQ(own.max_extensions, 1);
  EXPECT_EQ(own.seeds, (std::vector<std::int64_t>{100, 101}));
  const Json configuration =
      configuration_of(study, study.arms[1], {{"optimizer.groups.0.learning_rate_scale", 0.5}}, 0);
  EXPECT_EQ(configuration["optimizer"]["groups"][0]["learning_rate_scale"], 0.5);
}

TEST_F(StudyFile, ComparesWithinOnePlaceOfTheGrid) {
  Json json = study_json();
  json["arms"].push_back({{"name", "third"}, {"set", {{"model.norm", "layernorm"}}}});
  json["grid"] = {{"training.steps", {1, 2}}};
  json["comparisons"] = {{{"baseline", "full"}}};
  const Study all = read_study(json, {});
  ASSERT_EQ(all.comparisons.size(), 4u);
  for (const Comparison& pair : all.comparisons) {
    EXPECT_EQ(all.arms[pair.baseline].choice, "full");
    EXPECT_EQ(all.arms[pair.baseline].grid, all.arms[pair.arm].grid);
  }
  json["comparisons"] = {{{"baseline", "full"}, {"arms", {"third"}}}};
  EXPECT_EQ(read_study(json, {}).comparisons.size(), 2u);
}

TEST_F(StudyFile, HasNamesThatStayWhereTheyAre) {
  const auto error_of_names = [&](const std::string& study, const std::string& arm) {
    Json json = study_json();
    json["name"] = study;
    json["arms"][0]["name"] = arm;
    return error_of([&] { read_study(json, {}); });
  };
  EXPECT_EQ(error_of_names("a b.c", "A^-1/2 \xce\xb1"), "no error");
  EXPECT_EQ(error_of_names("", "x"),
            "[study] name must be 1 to 200 bytes without control characters or a way to another folder, got \"\"");
  for (const std::string wrong : {"", ".", "..", "/", "/tmp", "a/", "../a", "a/../b", "a//b", "a\nb", "a\x1b[31mb",
                                  "\x7f", "\xc2\x9b", "\xe2\x80\xae"}) {
    EXPECT_NE(error_of_names(wrong, "x").find("[study] name must be 1 to 200 bytes"), std::string::npos) << wrong;
    EXPECT_NE(error_of_names("x", wrong).find("[study] arms.name must be 1 to 200 bytes"), std::string::npos) << wrong;
  }
  EXPECT_NE(error_of_names("a/b", "x"), "no error");
  EXPECT_NE(error_of_names(std::string(201, 'x'), "x"), "no error");
}

TEST_F(StudyFile, IsRefusedWhereItIsWrongBeforeAnythingRuns) {
  const auto error_with = [&](const char* key, const Json& value) {
    Json json = searching_study_json();
    json[key] = value;
    return error_of([&] {
      const Study study = read_study(json, {});
      StudyPlanner(study).plan([](const StudyRun&) { return std::nullopt; });
    });
  };
  const auto expect = [](const std::string& part, const std::string& text) {
    EXPECT_NE(text.find(part), text.npos) << text;
  };
  const auto search = [](const Json& keys, const Json& seeds) { return Json{{"keys", keys}, {"seeds", seeds}}; };
  const Json rate = {{"optimizer.learning_rate", {{"values", {0.1}}}}};
  expect("did you mean seeds?", error_with("seed", {1}));
  expect("seeds must be integers of at least 0, got -1", error_with("seeds", {-1}));
  expect("seeds must hold at least one seed", error_with("seeds", Json::array()));
  expect("seeds must differ", error_with("seeds", {1, 1}));
  expect("arms must be a list of arms, got object", error_with("arms", Json::object()));
  expect("arms must hold at least one arm", error_with("arms", Json::array()));
  expect("arms.nam must be a known key", error_with("arms", {{{"nam", "x"}}}));
  Json clash = study_json();
  clash["arms"] = {{{"name", "a b"}}, {{"name", "a/b"}}};
  EXPECT_ERROR(read_study(clash, {}), "twice");
  expect("head.rnk must be a known key",
         error_with("arms", {{{"name", "full"}, {"set", {{"head.type", "low_rank"}, {"head.rnk", 2}}}}}));
  expect("grid.training.steps must be a list of values", error_with("grid", {{"training.steps", 3}}));
  expect("name must be a text, got number", error_with("name", 3));
  expect("search.seeds must share no seed with seeds", error_with("search", search(rate, {7, 3})));
  expect("search.seeds must be a list of integers where keys are searched", error_with("search", {{"keys", rate}}));
  expect("values must be a number above 0, got 0", error_with("search", search({{"a", {{"values", {0}}}}}, {9})));
  expect("factor must be a number above 1",
         error_with("search", search({{"a", {{"values", {1}}, {"factor", 1}}}}, {9})));
  expect("optimizer.learning_rat must be a known key",
         error_with("search", search({{"optimizer.learning_rat", {{"values", {1}}}}}, {9})));
  expect("did you mean rank 2?", error_with("comparisons", {{{"baseline", "full"}, {"arms", {"rank 3"}}}}));
  expect("comparisons.baseline must be the name of an arm", error_with("comparisons", {{{"baseline", "nobody"}}}));
  expect("margin must be a number above 0", error_with("margin", 0));
  expect("reach must be the name of an arm", error_with("reach", "nobody"));
  expect("interval must be two numbers",
         error_with("source", {{"reported", {{{"arm", "full"}, {"difference", 1}, {"interval", {1}}}}}}));
  expect("expected_sign.full must be", error_with("source", {{"expected_sign", {{"full", "up"}}}}));
  EXPECT_ERROR(read_study(Json::array(), {}), "a study must be an object");
  const auto correlation = [&](const char* key, const Json& value) {
    Json one = {{"predictors", {"gradient_retention.destroyed_ratio"}}, {"at_step", 2}};
    one[key] = value;
    return error_with("correlations", Json::array({one}));
  };
  expect("correlations.withn must be a known key, did you mean within?", correlation("withn", 1));
  expect("outcome must be \"final\" or \"progress\", got \"loss\"", correlation("outcome", "loss"));
  expect("predictors must name at least one", correlation("predictors", Json::array()));
  expect("at_step must be an integer of at least 1, got 0", correlation("at_step", 0));
  expect("at_step must be below training.steps of every arm, got 6", correlation("at_step", 6));
  expect("given must be keys of numbers", correlation("given", {"optimizer.type"}));
  expect("given must be keys of numbers", correlation("given", {"head.rank"}));  // one arm has none
  expect("within must be keys of some arm's configuration, got \"head.rnk\"", correlation("within", {"head.rnk"}));
  EXPECT_EQ(correlation("within", {"head.rank"}), "no error");
}

}  // namespace
}  // namespace lmhead
