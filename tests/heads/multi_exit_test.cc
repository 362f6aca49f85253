// What inner exits add to training, and when they stop.
#include <gtest/gtest.h>

#include "lmhead/heads/inner_blocks.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/linear_at_the_end.h"

namespace lmhead {
namespace {

using Blocks = std::vector<std::int64_t>;

TEST(InnerBlocks, StandAtEvenDistancesBeforeTheLast) {
  EXPECT_EQ(inner_blocks(1, 4, "who", "exits"), (Blocks{1}));
  EXPECT_EQ(inner_blocks(3, 4, "who", "exits"), (Blocks{0, 1, 2}));
  EXPECT_EQ(inner_blocks(2, 12, "who", "exits"), (Blocks{3, 7}));
  EXPECT_EQ(inner_blocks(0, 0, "who", "exits"), (Blocks{}));
  EXPECT_ERROR(inner_blocks(1, 1, "who", "exits"), "[who] exits must be below num_hidden_layers = 1, got 1");
}

TEST(MultiExitHead, IsTheLinearHeadOnceExitsWeighNothing) { expect_linear_at_the_end("multi_exit"); }

TEST(MultiExitHead, BadSettingsAreRefused) {
  const HeadContext context{
      .hidden_size = 4, .vocab_size = 9, .source = fresh_parameters(0), .initializer_range = 1, .num_hidden_layers = 3};
  const auto make = [&](const Json& json) { specification_of("multi_exit", {json}).make(context); };
  EXPECT_ERROR(make({{"exits", 3}}), "[multi_exit] exits must be below num_hidden_layers = 3, got 3");
  EXPECT_ERROR(make({{"exits", 0}}), "exits must be an integer of at least 1");
}

}  // namespace
}  // namespace lmhead
