// Fits of a study: what is asked, and the paired differences that statistics.json has for it.
#include "lmhead/study/study_fit.h"

#include "lmhead/study/study_statistics.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

class StudyFits : public StudyTest {
 protected:
  Json fitting_study_json() const {
    Json json = study_json();
    json["comparisons"] = {{{"baseline", "full"}}};
    json["grid"] = {{"size",
                     {{{"name", "narrow"}, {"set", {{"model.hidden_size", 8}}}},
                      {{"name", "wide"}, {"set", {{"model.hidden_size", 16}}}},
                      {{"name", "wide, longer"}, {"set", {{"model.hidden_size", 16}, {"training.steps", 9}}}}}}};
    json["fits"] = Json::array({{{"predictors", {"log2(V/D)", "tokens"}},
                                 {"figures", {"validation.loss", "validation.top1_accuracy"}},
                                 {"predict", {{{"name", "far"}, {"V/D", 64}, {"tokens", 1e9}}}}},
                                {{"predictors", {"body_parameters"}}}});
    return json;
  }
};

TEST_F(StudyFits, AreOfPairedDifferencesAtThePlacesThatAreThere) {
  const Study study = read_study(fitting_study_json(), {});
  EXPECT_EQ(study.keep, (std::vector<std::string>{"vocab_size", "hidden_size", "parameters_body"}));
  InlineWorkers workers;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  ASSERT_TRUE(run_study(progress, workers, workers.control()));
  const Json statistics = study_statistics(progress), fits = statistics["fits"];
  ASSERT_EQ(fits.size(), 2u);
  EXPECT_EQ(fits[0]["predictors"][0], (Json{{"name", "log2(V/D)"}, {"quantity", "V/D"}, {"log2", true}}));
  EXPECT_EQ(fits[0]["predictors"][1]["log2"], false);
  EXPECT_EQ(fits[0]["predict"], Json::array({{{"name", "far"}, {"quantities", {64.0, 1e9}}}}));
  ASSERT_EQ(fits[0]["differences"].size(), 2u);
  ASSERT_EQ(fits[1]["differences"].size(), 1u);
  const ConfirmedRows confirmed = confirmed_rows(progress);
  const Json& loss = fits[0]["differences"][0];
  EXPECT_EQ(loss["figure"], "validation.loss");
  EXPECT_EQ(loss["arm"], "rank 2");
  EXPECT_EQ(loss["baseline"], "full");
  EXPECT_TRUE(loss["missing"].empty());
  ASSERT_EQ(loss["points"].size(), 3u);
  for (std::size_t place = 0; place < 3; ++place) {
    const Json& point = loss["points"][place];
    const Comparison& pair = study.comparisons[place];
    EXPECT_EQ(point["place"], study.arms[pair.arm].grid[0].second);
    EXPECT_EQ(point["seeds"], (Json{0, 3}));
    EXPECT_EQ(point["differences"], statistics["comparisons"][place]["differences"]);
    EXPECT_EQ(point["interval"], statistics["comparisons"][place]["interval"]);
    const RunRow& row = *confirmed.rows[pair.baseline].at(0);
    const double width = place == 0 ? 8 : 16;
    EXPECT_EQ(point["quantities"], (Json{row.keep["vocab_size"].get<double>() / width, double(*row.tokens)}));
    const Json& accuracy = fits[0]["differences"][1]["points"][place];
    EXPECT_EQ(accuracy["differences"][1].get<double>(),
              confirmed.rows[pair.arm].at(3)->final["top1_accuracy"].get<double>() -
                  confirmed.rows[pair.baseline].at(3)->final["top1_accuracy"].get<double>());
    EXPECT_EQ(fits[1]["differences"][0]["points"][place]["quantities"],
              (Json{row.keep["parameters_body"].get<double>() - row.keep["vocab_size"].get<double>() * width}));
  }
  EXPECT_GT(loss["points"][2]["quantities"][1].get<double>(), loss["points"][1]["quantities"][1].get<double>());
}

TEST_F(StudyFits, SayWhichPlacesAreMissingAndWhy) {
  Json json = fitting_study_json();
  // At the second place the arm diverges, at the third no run is finished.
  json["grid"]["size"][1]["arms"] = {
      {"rank 2", {{"optimizer.type", "sgd"}, {"optimizer.learning_rate", 1e30}, {"training.clip_norm", 0}}}};
  json["base"].erase("observe");  // observers look at the weights before the loss tells
  const Study study = read_study(json, {});
  InlineWorkers workers;
  workers.stop_after = 6 * 6 + 5;
  StudyProgress progress(study, scratch_ / "study", scratch_ / "rows.jsonl");
  EXPECT_FALSE(run_study(progress, workers, workers.control()));
  EXPECT_TRUE(workers.failures.empty()) << workers.failures.front();
  const Json loss = study_statistics(progress)["fits"][0]["differences"][0];
  ASSERT_EQ(loss["points"].size(), 1u);
  EXPECT_EQ(loss["points"][0]["place"], "narrow");
  ASSERT_EQ(loss["missing"].size(), 2u);
  EXPECT_EQ(loss["missing"][0], (Json{{"place", "wide"}, {"why", "no figure or size on 2 of 2 seeds"}}));
  EXPECT_EQ(loss["missing"][1], (Json{{"place", "wide, longer"}, {"why", "0 of at least 2 pairs"}}));
}

TEST_F(StudyFits, AreRefusedWhereTheyCannotBe) {
  const auto error_with = [&](const char* key, const Json& value) {
    Json json = fitting_study_json();
    json["fits"][0][key] = value;
    return error_of([&] { read_study(json, {}); });
  };
  const auto expect = [](const std::string& part, const std::string& text) {
    EXPECT_NE(text.find(part), text.npos) << text;
  };
  EXPECT_EQ(error_with("figures", {"validation.loss"}), "no error");
  expect("fits.predictor must be a known key, did you mean predictors?", error_with("predictor", 1));
  expect("fits.predictors must be a list of texts, got object", error_with("predictors", Json::object()));
  expect("fits.predictors must hold at least one", error_with("predictors", Json::array()));
  expect("fits.predictors must differ, got V twice", error_with("predictors", {"V", "V"}));
  for (const std::string wrong : {"token", "log2(W)", "log2(V/W)", "V/D/tokens", "log(V)", "log2(V", "V/", "/", ""})
    expect(
        "fits.predictors must be V, D, body_parameters, tokens or a ratio of two, as they are or in log2(...), got \"" +
            wrong + '"',
        error_with("predictors", Json::array({wrong})));
  expect("did you mean tokens?", error_with("predictors", {"token"}));
  expect("as many places in the grid as coefficients, 4, got 3", error_with("predictors", {"V", "D", "tokens"}));
  expect("fits.figures must be the outcome or figures of the last validation", error_with("figures", {"tokens"}));
  expect("fits.figures must hold at least one", error_with("figures", Json::array()));
  const auto point = [&](const Json& one) { return error_with("predict", Json::array({one})); };
  expect("fits.predict.name must be 1 to 200 bytes", point({{"name", ""}, {"V/D", 1}, {"tokens", 1}}));
  expect("must have every predictor's quantity, got no tokens in \"far\"", point({{"name", "far"}, {"V/D", 1}}));
  expect("fits.predict.V/D must be a number above 0, got 0", point({{"name", "far"}, {"V/D", 0}, {"tokens", 1}}));
  expect("fits.predict.V must be a known key", point({{"name", "far"}, {"V", 3}, {"V/D", 1}, {"tokens", 1}}));
  const Json far = {{"name", "far"}, {"V/D", 1}, {"tokens", 1}};
  expect("fits.predict must have names that differ, got far twice", error_with("predict", Json::array({far, far})));
  Json json = fitting_study_json();
  json.erase("comparisons");
  expect("fits must have comparisons", error_of([&] { read_study(json, {}); }));
}

}  // namespace
}  // namespace lmhead
