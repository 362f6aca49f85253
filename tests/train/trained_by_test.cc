// Who trained a run, over all its processes.
#include "lmhead/train/trained_by.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lmhead/base/build_commit.h"
#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

TEST(TrainedBy, SaysWhatThisProcessIs) {
  const TrainedBy now = trained_by_this_process();
  EXPECT_EQ(now.commit, build_commit());
  EXPECT_FALSE(now.commit.empty());
  EXPECT_FALSE(now.processor.empty());
  EXPECT_FALSE(now.vector_level.empty());
  EXPECT_TRUE(now.torch_version.starts_with("2."));
  EXPECT_GE(now.threads, 1);
}

TEST(TrainedBy, NamesEveryProcessThatDidSteps) {
  std::vector<TrainedBy> all;
  add_this_process(all, 0);
  add_this_process(all, 7);
  EXPECT_EQ(all.size(), 1u);
  all.back().commit = "another";
  add_this_process(all, 14);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(to_json(all)[0]["commit"], "another");
  std::vector<TrainedBy> older;  // a checkpoint from before there was the key
  add_this_process(older, 7);
  ASSERT_EQ(older.size(), 2u);
  EXPECT_EQ(older[0].commit, "unknown");
}

TEST(TrainedBy, GoesThroughCheckpointsIntoTheSummary) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  const Json json = tiny_configuration(scratch / "data");
  make_trainer(json, scratch / "run").run({.should_stop = [count = 0]() mutable { return ++count == 8; }});
  const auto file = scratch / "run" / "checkpoints" / "step-00000008" / "state.json";
  Json state = Json::parse(read_file(file));
  ASSERT_EQ(state["trained_by"].size(), 1u);
  state["trained_by"][0]["processor"] = "another";
  write_file_atomic(file, state.dump());
  std::filesystem::remove(file.parent_path() / "checksums");  // of the state before it was changed
  Trainer resumed = make_trainer(json, scratch / "run");
  ASSERT_EQ(resumed.resumed_step(), 8);
  const Json trained_by = resumed.summary("stopped")["trained_by"];
  ASSERT_EQ(trained_by.size(), 2u);
  EXPECT_EQ(trained_by[0]["processor"], "another");
  EXPECT_EQ(trained_by[1], write_options(trained_by_this_process()));
}

}  // namespace
}  // namespace lmhead
