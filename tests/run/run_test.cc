#include "lmhead/run/run.h"

#include <gtest/gtest.h>

#include "lmhead/base/folder_lock.h"
#include "lmhead/study/long_form_results.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

TEST(Run, ObservesDiagnosticsAtPowersOfTwoAndAtTheLastStep) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json configuration = tiny_configuration(scratch / "data");
  configuration["training"]["steps"] = 6;
  configuration["observe"]["diagnostics"] = {
      {"powers_of_two", true}, {"gradient_spectrum", true}, {"gradient_retention", true}};
  ASSERT_TRUE(run_training(configuration, scratch / "run", {}));
  std::vector<std::int64_t> observed;
  for (const Json& line : read_log(scratch / "run")) {
    if (!line.contains("diagnostics")) continue;
    observed.push_back(line.at("step"));
    const Json& figures = line.at("diagnostics");
    EXPECT_EQ(figures.at("tokens"), 64);
    EXPECT_TRUE(figures.contains("gradient_spectrum") && figures.contains("gradient_retention"));
    EXPECT_FALSE(figures.contains("quality"));
  }
  EXPECT_EQ(observed, (std::vector<std::int64_t>{1, 2, 4, 6}));
}

TEST(Run, GoesOnInAFolderThatIsOlderThanAKey) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json json = tiny_configuration(scratch / "data");
  json["training"]["steps"] = 6;
  json["optimizer"]["groups"] = {{{"pattern", "lm_head.*"}}};
  const auto stop_after_3 = [count = 0]() mutable { return ++count == 3; };
  ASSERT_FALSE(run_training(json, scratch / "run", {.trainer = {.should_stop = stop_after_3}}));
  const auto file = scratch / "run" / "config.json";
  Json older = Json::parse(read_file(file));
  older["optimizer"]["groups"][0].erase("type");
  older["observe"].erase("diagnostics");
  write_file_atomic(file, older.dump());
  EXPECT_FALSE(is_finished(scratch / "run", complete_configuration(json)));
  ASSERT_TRUE(run_training(json, scratch / "run", {}));
  EXPECT_EQ(read_log(scratch / "run").size(), 6u);
  EXPECT_EQ(Json::parse(read_file(file)), complete_configuration(json));
  write_file_atomic(file, older.dump());
  EXPECT_TRUE(is_finished(scratch / "run", complete_configuration(json)));
  older["optimizer"]["learning_rate"] = 0.5;
  write_file_atomic(file, older.dump());
  EXPECT_FALSE(is_finished(scratch / "run", complete_configuration(json)));
  EXPECT_THROW(run_training(json, scratch / "run", {}), Error);
}

TEST(Run, LooksAtAFolderOnlyOnceNobodyElseUsesIt) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  const Json json = tiny_configuration(scratch / "data");
  const auto file = scratch / "run" / "config.json";
  Json older = complete_configuration(json);
  older["observe"].erase("diagnostics");
  const FolderLock other(scratch / "run", "run", "trains");
  write_text(file, older.dump());
  write_text(scratch / "run" / "log.jsonl", "{\"step\":1}\n");
  EXPECT_ERROR(run_training(json, scratch / "run", {}), "must not be in use, got another process that trains in it");
  EXPECT_EQ(read_file(file), older.dump());
}

TEST(Run, AsksTasksEverySoManyStepsAndAtTheLast) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json requests = {{"format", "lmhead-requests"}, {"version", 1}, {"tokenizer_hash", "bytes"}};
  const Json document = {
      {"requests", {{{1, 8, 43}, {26}}, {{1, 8, 43}, {5}}}}, {"gold", 0}, {"characters", {1, 1}}, {"gold_bytes", 2}};
  requests["tasks"] = {{{"name", "next"}, {"documents", {document}}}};
  write_file_atomic(scratch / "requests.json", requests.dump());
  Json configuration = tiny_configuration(scratch / "data");
  configuration["training"]["steps"] = 5;
  configuration["observe"]["downstream"] = {{"every", 2}, {"requests", (scratch / "requests.json").string()}};
  ASSERT_TRUE(run_training(configuration, scratch / "run", {}));
  std::vector<std::int64_t> asked;
  for (const Json& line : read_log(scratch / "run")) {
    if (!line.contains("downstream")) continue;
    asked.push_back(line.at("step"));
    EXPECT_GT(line["downstream"]["next"]["bits_per_byte"].get<double>(), 0);
    EXPECT_TRUE(line["downstream"]["next"].contains("acc"));
  }
  EXPECT_EQ(asked, (std::vector<std::int64_t>{2, 4, 5}));
  EXPECT_TRUE(read_summary(scratch / "run")->at("final").contains("downstream"));  // so that it can be an outcome

  configuration["observe"]["downstream"]["truncation"] = "document";
  configuration["observe"]["downstream"]["max_length"] = 2;  // of contexts of three tokens
  ASSERT_TRUE(run_training(configuration, scratch / "cut", {}));
  EXPECT_NE(read_log(scratch / "cut")[4]["downstream"], read_log(scratch / "run")[4]["downstream"]);
  configuration["observe"]["downstream"]["max_length"] = 1000;
  EXPECT_ERROR(run_training(configuration, scratch / "other", {}),
               "observe.downstream.max_length must be at most data.sequence_length");
  configuration["observe"]["downstream"]["max_length"] = 0;

  Json longer = requests;
  longer["tasks"][0]["documents"][0]["requests"][0][1] = std::vector<int>(1000, 1);
  write_file_atomic(scratch / "requests.json", longer.dump());
  EXPECT_ERROR(run_training(configuration, scratch / "other", {}),
               "document 0 of next: the continuation of request 0 must be no longer than max_length");
  EXPECT_TRUE(read_log(scratch / "other").empty());  // before any step
  requests["tokenizer_hash"] = "another";
  write_file_atomic(scratch / "requests.json", requests.dump());
  EXPECT_THROW(run_training(configuration, scratch / "other", {}), Error);
  // Asking changes nothing of the run.
  configuration["observe"].erase("downstream");
  ASSERT_TRUE(run_training(configuration, scratch / "silent", {}));
  EXPECT_EQ(read_log(scratch / "silent")[4]["loss"], read_log(scratch / "run")[4]["loss"]);
}

TEST(Run, HasTheSameFiguresWhereActivationsAreComputedAgain) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json json = tiny_configuration(scratch / "data");
  json["training"]["steps"] = 10;
  json["model"]["num_hidden_layers"] = 3;
  json["data"]["micro_batches"] = 2;
  json["head_gradient"]["hidden"] = {{"rule", "row_normalized"}, {"at", "last_block_input"}};
  ASSERT_TRUE(run_training(json, scratch / "kept", {}));
  json["training"]["checkpoint_activations"] = true;
  ASSERT_TRUE(run_training(json, scratch / "again", {}));
  EXPECT_EQ(figures_of(scratch / "again"), figures_of(scratch / "kept"));
}

TEST(Run, RefusesToObserveNothing) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json configuration = tiny_configuration(scratch / "data");
  configuration["observe"]["diagnostics"] = {{"every", 2}};
  EXPECT_THROW(run_training(configuration, scratch / "run", {}), Error);
}

}  // namespace
}  // namespace lmhead
