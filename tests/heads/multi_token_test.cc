// What further targets add to training, and when they stop.
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/linear_at_the_end.h"

namespace lmhead {
namespace {

TEST(MultiTokenHead, IsTheLinearHeadOnceFurtherTargetsWeighNothing) { expect_linear_at_the_end("multi_token"); }

TEST(MultiTokenHead, IsTrainedOnWholeSequencesAlone) {
  const Bench bench("multi_token", {Json::object()}, {12, 9, 4});
  HeadInput some = bench.input().narrow(0, 4);
  EXPECT_ERROR(bench.head->loss(some, bench.targets.narrow(0, 0, 4)),
               "must be trained on every row, got a choice of 4");
  some = bench.input();
  some.tokens.reset();
  EXPECT_ERROR(bench.head->loss(some, bench.targets), "tokens must be int64 [B, T]");
}

}  // namespace
}  // namespace lmhead
