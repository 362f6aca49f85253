// Parts of a study carried out by machines that share nothing but rows.
#include "lmhead/study/study_shard.h"

#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using StudyShards = StudyTest;

TEST_F(StudyShards, TogetherAreTheStudy) {
  Json json = searching_study_json();
  json["search"]["seeds"] = {100};
  json["search"]["max_extensions"] = 0;
  const Study study = read_study(json, {});
  const fs::path rows = scratch_ / "rows";
  fs::create_directories(rows);
  std::size_t rounds = 0, carried_out[2] = {0, 0};
  for (bool whole = false; !whole; ++rounds) {  // what is known of the search grows with the rows of both
    ASSERT_LT(rounds, 10u);
    for (const std::int64_t index : {1, 2}) {
      InlineWorkers workers;
      StudyControl control = workers.control();
      control.shard = {index, 2};
      StudyProgress all(study, scratch_ / std::to_string(index), rows);
      whole = run_study(all, workers, control);
      carried_out[index - 1] += workers.starts.size();
    }
  }
  EXPECT_GT(carried_out[0], 0u);
  EXPECT_GT(carried_out[1], 0u);
  InlineWorkers straight;
  StudyProgress at_once(study, scratch_ / "whole", scratch_ / "whole.jsonl");
  ASSERT_TRUE(run_study(at_once, straight, straight.control()));
  EXPECT_EQ(straight.starts.size(), carried_out[0] + carried_out[1]);  // no run twice
}

TEST_F(StudyShards, AreNamedByTheirPlace) {
  EXPECT_EQ(parse_study_shard("2/3").index, 2);
  EXPECT_EQ(parse_study_shard("2/3").count, 3);
  for (const char* text : {"0/3", "4/3", "1", "1/", "/3", "1/3x", "a/b", "-1/3", "1/0", "1/99999999999999999999"})
    EXPECT_THROW(parse_study_shard(text), Error) << text;
}

}  // namespace
}  // namespace lmhead
