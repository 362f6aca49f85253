#include "lmhead/train/run_folder.h"

#include <gtest/gtest.h>

#include "tests/base/file_fixtures.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

const Json kConfiguration = {{"model", {{"hidden_size", 16}, {"depth", 2}}}, {"training", {{"steps", 4}}}};

TEST(RunFolder, KeepsTheConfigurationAndTakesTheSameAgain) {
  const ScratchFolder scratch;
  const std::string hash = RunFolder(scratch / "run", kConfiguration).configuration_hash();
  EXPECT_EQ(Json::parse(read_file(scratch / "run" / "config.json")), kConfiguration);
  EXPECT_EQ(RunFolder(scratch / "run", kConfiguration).configuration_hash(), hash);
}

TEST(RunFolder, AnotherConfigurationIsRefusedByItsKey) {
  const ScratchFolder scratch;
  RunFolder(scratch / "run", kConfiguration).open_log(0);
  Json other = kConfiguration;
  other["training"]["steps"] = 5;
  write_text(scratch / "run" / "log.jsonl", "{\"step\":1}\n");
  EXPECT_ERROR(RunFolder(scratch / "run", other), "got another value of training.steps");
  EXPECT_EQ(Json::parse(read_file(scratch / "run" / "config.json")), kConfiguration);
}

TEST(RunFolder, SecondUserIsRefusedUntilTheFirstIsGone) {
  const ScratchFolder scratch;
  {
    const RunFolder first(scratch / "run", kConfiguration);
    EXPECT_ERROR(RunFolder(scratch / "run", kConfiguration), "must not be in use");
  }
  RunFolder(scratch / "run", kConfiguration);
}

TEST(RunFolder, OpeningTheLogDropsWhatCameAfterTheCheckpoint) {
  const ScratchFolder scratch;
  RunFolder run(scratch / "run", kConfiguration);
  write_text(scratch / "run" / "log.jsonl", "{\"step\":1,\"loss\":0.1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4,\"lo");
  EXPECT_EQ(run.open_log(2).size(), 2u);
  run.append({{"step", 3}, {"loss", 2.0}});
  EXPECT_EQ(read_file(scratch / "run" / "log.jsonl"),
            "{\"step\":1,\"loss\":0.1}\n{\"step\":2}\n{\"step\":3,\"loss\":2.0}\n");
}

constexpr const char* kFourLines = "{\"step\":1,\"loss\":0.1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n";

TEST(RunFolder, AnythingAfterTheCheckpointsStepMayBeDamaged) {
  const ScratchFolder scratch;
  RunFolder run(scratch / "run", kConfiguration);
  for (const char* rest : {"", "{\"step\":3,\"lo", "nonsense\n{\"step\":4}\n", "\xff\n\n", "{\"step\":9}\n"}) {
    write_text(scratch / "run" / "log.jsonl", "{\"step\":1}\n{\"step\":2}\n" + std::string(rest));
    EXPECT_EQ(run.open_log(2).size(), 2u);
    EXPECT_EQ(read_file(scratch / "run" / "log.jsonl"), "{\"step\":1}\n{\"step\":2}\n");
  }
}

TEST(RunFolder, ALineThatTheCheckpointCountsOnMustBeThereAndIsNamed) {
  const ScratchFolder scratch;
  RunFolder run(scratch / "run", kConfiguration);
  for (const char* bad : {"[]", "nonsense", "{\"step\":\"two\"}", "{\"step\":null}", "{\"step\":1e999}", "{\"step\":3}",
                          "{\"step\":2,\xff}", ""}) {
    const std::string text = "{\"step\":1}\n" + std::string(bad) + "\n{\"step\":3}\n";
    write_text(scratch / "run" / "log.jsonl", text);
    EXPECT_ERROR(run.open_log(3), "log.jsonl: line 2 must be the JSON object of step 2, got");
    EXPECT_EQ(read_file(scratch / "run" / "log.jsonl"), text);  // nothing is lost by asking
  }
  for (const char* shorter : {"", "{\"step\":1}\n", "{\"step\":1}\n{\"step\":2}"}) {
    write_text(scratch / "run" / "log.jsonl", shorter);
    EXPECT_ERROR(run.open_log(2), "log.jsonl must have a line for each of the 2 steps");
  }
}

TEST(RunFolder, LinesThatWereChangedAreSeenByTheirHash) {
  const ScratchFolder scratch;
  LogEnd end;
  {
    RunFolder run(scratch / "run", kConfiguration);
    run.open_log(0);
    run.append({{"step", 1}, {"loss", 4.17}});
    run.append({{"step", 2}, {"loss", 4.09}});
    end = run.sync_log();
    run.append({{"step", 3}});
  }
  RunFolder run(scratch / "run", kConfiguration);
  EXPECT_EQ(run.open_log(2, end).size(), 2u);
  run.append({{"step", 3}});
  EXPECT_EQ(run.open_log(3, run.sync_log()).size(), 3u);  // the hash goes on where the log was opened
  std::string text = read_file(scratch / "run" / "log.jsonl");
  text.replace(text.find("4.17"), 4, "4.27");
  write_text(scratch / "run" / "log.jsonl", text);
  EXPECT_ERROR(run.open_log(2, end), "log.jsonl: lines 1 to 2 must be those that the newest checkpoint counts on");
}

TEST(RunFolder, WhatKilledProcessesLeftIsRemoved) {
  const ScratchFolder scratch;
  make_directory(scratch / "run");
  for (const char* name : {"config.json.tmp77", "log.jsonl.tmp77", "summary.json.tmp8", "notes.tmp77"})
    write_text(scratch / "run" / name, "half");
  const RunFolder run(scratch / "run", kConfiguration);
  EXPECT_EQ(names_in(scratch / "run"), (std::set<std::string>{".lock", "config.json", "notes.tmp77"}));
}

TEST(RunFolder, AFullDiskLeavesWholeLines) {
  const ScratchFolder scratch;
  RunFolder run(scratch / "run", kConfiguration);
  run.open_log(0);
  run.append({{"step", 1}});
  {
    const FileSizeLimit limit(20);
    EXPECT_ERROR(run.append({{"step", 2}, {"loss", 0.123456789}}), "log.jsonl must be writable, got: File too large");
  }
  run.append({{"step", 2}});
  EXPECT_EQ(run.open_log(2, run.sync_log()).size(), 2u);
}

TEST(ReadLog, LeavesOutALineThatIsCutShortAndNothingElse) {
  const ScratchFolder scratch;
  EXPECT_TRUE(read_log(scratch.path()).empty());
  write_text(scratch / "log.jsonl", kFourLines + std::string("{\"step\":5,\"lo"));
  EXPECT_EQ(read_log(scratch.path()).size(), 4u);
  std::string text = kFourLines;
  text[text.find("2}")] = 'x';
  write_text(scratch / "log.jsonl", text);
  EXPECT_ERROR(read_log(scratch.path()), "log.jsonl: line 2 must be the JSON object of step 2");
}

TEST(ReadLog, OfAFinishedRunMustGoToItsEnd) {
  const ScratchFolder scratch;
  write_text(scratch / "log.jsonl", kFourLines);
  write_text(scratch / "summary.json", "{\"state\":\"finished\",\"steps\":4}");
  EXPECT_EQ(read_log(scratch.path()).size(), 4u);
  write_text(scratch / "summary.json", "{\"state\":\"finished\",\"steps\":6}");
  EXPECT_ERROR(read_log(scratch.path()), "must have a line for each of the 6 steps of the finished run, got 4");
  write_text(scratch / "summary.json", "{\"state\":\"stopped\",\"steps\":6}");
  EXPECT_EQ(read_log(scratch.path()).size(), 4u);
}

TEST(RunFolder, SummariesThatAreNoneAreErrors) {
  const ScratchFolder scratch;
  EXPECT_FALSE(read_summary(scratch.path()).has_value());
  write_text(scratch / "summary.json", "{\"state\":");
  EXPECT_ERROR(read_summary(scratch.path()), "summary.json] must be valid JSON");
  write_text(scratch / "summary.json", "{\"tokens\":1e999}");
  EXPECT_ERROR(read_summary(scratch.path()), "summary.json] must hold numbers");
  write_text(scratch / "summary.json", "[1]");
  EXPECT_ERROR(read_summary(scratch.path()), "must be an object");
}

TEST(FirstDifference, NamesTheDottedPath) {
  EXPECT_EQ(first_difference(kConfiguration, kConfiguration), "");
  Json other = kConfiguration;
  other["model"]["depth"] = 3;
  EXPECT_EQ(first_difference(kConfiguration, other), "model.depth");
  other = kConfiguration;
  other["training"].erase("steps");
  EXPECT_EQ(first_difference(kConfiguration, other), "training.steps");
  EXPECT_EQ(first_difference(other, kConfiguration), "training.steps");
  other = kConfiguration;
  other["extra"] = 1;
  EXPECT_EQ(first_difference(kConfiguration, other), "extra");
  EXPECT_EQ(first_difference({{"list", {1, 2}}}, {{"list", {1, 3}}}), "list");
  EXPECT_EQ(first_difference({{"a", 1}}, {{"a", 1.0}}), "");
}

TEST(HashConfiguration, DiffersWithAnyValue) {
  EXPECT_EQ(hash_configuration(kConfiguration), hash_configuration(Json::parse(kConfiguration.dump())));
  Json other = kConfiguration;
  other["training"]["steps"] = 5;
  EXPECT_NE(hash_configuration(kConfiguration), hash_configuration(other));
}

}  // namespace
}  // namespace lmhead
