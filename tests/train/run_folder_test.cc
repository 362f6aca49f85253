#include "lmhead/train/run_folder.h"

#include <gtest/gtest.h>

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

TEST(RunFolder, LogsThatAreNoLogsEndWhereTheyStopMakingSense) {
  const ScratchFolder scratch;
  RunFolder run(scratch / "run", kConfiguration);
  for (const char* bad : {"[]", "nonsense", "{\"step\":\"two\"}", "{\"step\":null}", "{\"step\":1e999}"}) {
    write_text(scratch / "run" / "log.jsonl", "{\"step\":1}\n" + std::string(bad) + "\n{\"step\":2}\n");
    EXPECT_EQ(run.open_log(9).size(), 1u) << bad;
  }
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
