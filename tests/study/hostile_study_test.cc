// Study files and rows that nobody would write: each is carried out or refused in our own words, never by a library's.
#include <cmath>
#include <functional>

#include "lmhead/study/study_statistics.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using HostileStudy = StudyTest;

/// A study with every member there is.
Json whole_study(Json json) {
  json["description"] = "text";
  json["outcome"] = "validation.loss";
  json["higher_is_better"] = false;
  json["margin"] = 0.1;
  json["reach"] = "worst";
  json["details"] = {"validation.*"};
  json["against"] = {"data.sequence_length"};
  json["keep"] = {"diagnostics"};
  json["limits"] = {"text"};
  json["grid"] = {{"data.sequence_length", {8, 16}}};
  json["search"] = {{"keys", {{"optimizer.learning_rate", {{"values", {0.01, 0.02}}, {"factor", 2}}}}},
                    {"seeds", {100}},
                    {"max_extensions", 1},
                    {"rounds", 1}};
  json["arms"][1]["search"] = {{"seeds", {101}}};
  json["comparisons"] = {{{"baseline", "full"}, {"arms", {"rank 2"}}}};
  json["correlations"] = {{{"predictors", {"gradient_retention.destroyed_ratio"}},
                           {"at_step", 2},
                           {"outcome", "final"},
                           {"given", {"optimizer.learning_rate"}},
                           {"within", {"head"}},
                           {"margin", 0.5}}};
  json["fits"] = {{{"predictors", {"log2(tokens)"}},
                   {"figures", {"validation.loss", "validation.by_frequency.rank 1-10.loss"}},
                   {"predict", {{{"name", "far"}, {"tokens", 1e9}}}}}};
  json["source"] = {
      {"paper", "text"},
      {"claim", "text"},
      {"expected_sign", {{"full", "0"}}},
      {"reported",
       {{{"arm", "rank 2"}, {"baseline", "full"}, {"difference", 0.1}, {"interval", {0.0, 0.2}}, {"note", "text"}}}}};
  return json;
}

/// Calls `visit` with the pointer to every value below `json`.
void each_place(const Json& json, const Json::json_pointer& at,
                const std::function<void(const Json::json_pointer&)>& visit) {
  if (!at.empty()) visit(at);
  if (json.is_object())
    for (const auto& item : json.items()) each_place(item.value(), at / item.key(), visit);
  if (json.is_array())
    for (std::size_t index = 0; index < json.size(); ++index) each_place(json[index], at / index, visit);
}

std::vector<Json> hostile_values() {
  std::vector<Json> values = {nullptr, true, -1, 0, 0.5, 1e38, -1e308, 5e-324, "", "a~b/c.\x1b[2J", "..", "full"};
  values.push_back(std::numeric_limits<std::uint64_t>::max());
  values.push_back(std::numeric_limits<std::int64_t>::min());
  values.push_back(Json::array());
  values.push_back(Json::object());
  values.push_back({nullptr, 1});
  values.push_back({{"", {{"a.b", 1}}}});
  return values;
}

/// Empty where the study was carried through or refused with an Error of one line; else what came instead.
std::string complaint_about(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string text = error.what();
    return text.starts_with('[') && text.find('\n') == text.npos && text.size() < 1000 ? "" : text;
  } catch (const std::exception& error) {
    return std::string("of a library: ") + error.what();
  }
  return "";
}

/// Rows of all runs that the study knows of, with these figures.
void write_rows(const Study& study, const fs::path& file, double figure) {
  SharedLines lines(file);
  const SharedLines::Lock lock(lines);
  RunIdentities identities;
  StudyPlanner planner(study);
  double outcome = figure;
  for (const StudyRun& run : planner.plan([](const StudyRun&) { return 1.0; }).runs) {
    const RunIdentity& identity = identities.of(run);
    RunRow row{.study = study.name, .arm = run.arm_name, .phase = to_string(run.phase), .seed = run.seed};
    row.configuration = identity.configuration;
    row.settings = identity.settings;
    row.dataset = identity.dataset;
    row.outcome_path = kLossOutcome;
    row.outcome = outcome = -outcome;
    row.final = {{"loss", outcome}, {"by_frequency", {{"rank 1-10", {{"loss", figure}}}}}};
    row.curve = {.step = {1, 2}, .tokens = {1, 2}, .wall_seconds = {1e308, std::nullopt}, .loss = {figure, outcome}};
    row.observations = {{"diagnostics.x", figure}};
    row.keep = {{"diagnostics", {{"step", {1, 2}}, {"value", {{{"x", figure}}, {{"x", "text"}}}}}},
                {"torn", {{"step", {1, "text"}}, {"value", {1, 2}}}}};
    row.observation_curves = {{"gradient_retention.destroyed_ratio", {{"step", {2}}, {"value", {figure * row.seed}}}}};
    row.tokens = 1;
    row.flops = row.wall_seconds = row.tokens_per_second = row.measure_seconds = std::abs(figure);
    lines.append(lock, write_options(row).dump());
  }
}

TEST_F(HostileStudy, IsReadOrRefusedInOneLineWhateverStandsAnywhere) {
  const Json whole = whole_study(study_json());
  const fs::path rows = scratch_ / "rows.jsonl";
  write_rows(read_study(whole, {}), rows, 1);
  const auto read = [&](const Json& json) {
    const Study study = read_study(json, {});
    StudyProgress progress(study, scratch_ / "study", rows);
    // A value of a configuration changes no more of the statistics than which rows there are.
    if (json["base"] == whole["base"]) study_statistics(progress);
    else progress.plan();
  };
  ASSERT_EQ(error_of([&] { read(whole); }), "no error");
  const std::vector<Json> values = hostile_values();
  each_place(whole, Json::json_pointer(), [&](const Json::json_pointer& place) {
    for (const Json& value : values) {
      Json json = whole;
      json[place] = value;
      EXPECT_EQ(complaint_about([&] { read(json); }), "") << place.to_string() << " = " << value.dump();
    }
    Json without = whole;
    Json& parent = without[place.parent_pointer()];
    if (parent.is_object()) parent.erase(place.back());
    EXPECT_EQ(complaint_about([&] { read(without); }), "") << "without " << place.to_string();
  });
}

TEST_F(HostileStudy, IsRefusedBeforeItsRunsFillTheMemory) {
  Json json = study_json();
  json["grid"] = Json::object();
  for (int axis = 0; axis < 30; ++axis) json["grid"]["data.x" + std::to_string(axis)] = {1, 2, 3, 4};
  EXPECT_ERROR(read_study(json, {}), "arms and grid must make at most 10000 arms");
  json.erase("grid");
  json["seeds"].clear();
  for (int seed = 0; seed < 10001; ++seed) json["seeds"].push_back(seed);
  EXPECT_ERROR(read_study(json, {}), "must ask for at most 20000 runs, got 20002");
}

TEST_F(HostileStudy, HasStatisticsOfWhateverNumbersItsRowsHold) {
  Json json = whole_study(study_json());
  json["grid"] = {{"training.steps", {6, 7}}};
  json["against"] = Json::array();
  const Study study = read_study(json, {});
  for (const double figure : {0.0, 5e-324, 1e38, 1e154, 1e308, std::numeric_limits<double>::max()}) {
    const fs::path rows = scratch_ / "rows.jsonl";
    fs::remove(rows);
    write_rows(study, rows, figure);
    const std::string complaint = complaint_about([&] {
      StudyProgress progress(study, scratch_ / "study", rows);
      EXPECT_GT(study_statistics(progress)["runs"]["finished"], 4);
    });
    EXPECT_EQ(complaint, "") << figure;
  }
}

}  // namespace
}  // namespace lmhead
