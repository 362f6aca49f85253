#include "lmhead/heads/head_input.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "lmhead/heads/head_schedule.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

at::Tensor ids(const std::vector<std::int64_t>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kLong).view(shape);
}

TEST(HeadInput, ATokenThatEndsADocumentStandsBeforeTheNextOne) {
  const at::Tensor documents = documents_of(ids({3, 0, 5, 0, 0, 1, 2, 3}, {2, 4}), 0);
  EXPECT_TRUE(documents.equal(ids({0, 1, 1, 2, 1, 1, 1, 1}, {2, 4})));
  EXPECT_FALSE(documents_of(ids({3, 0}, {1, 2}), std::nullopt).defined());
}

TEST(HeadInput, TargetsAheadStayWithinTheirSequence) {
  const at::Tensor tokens = ids({0, 1, 2, 5, 6, 7}, {2, 3}), targets = ids({1, 2, 3, 6, 7, 8}, {6});
  EXPECT_TRUE(targets_ahead(targets, tokens, 0).equal(targets));
  EXPECT_TRUE(targets_ahead(targets, tokens, 1).equal(ids({2, 3, -100, 7, 8, -100}, {6})));
  EXPECT_TRUE(targets_ahead(targets, tokens, 3).equal(ids({-100, -100, -100, -100, -100, -100}, {6})));
}

TEST(HeadInput, NarrowingTwiceIsNarrowingOnce) {
  HeadInput input{.hidden = at::arange(20).view({10, 2}).to(at::kFloat)};
  EXPECT_EQ(input.asked(), 10);
  const HeadInput some = input.narrow(2, 6).narrow(1, 2);
  EXPECT_EQ(some.asked(), 2);
  EXPECT_TRUE(some.select(input.hidden).equal(input.hidden.narrow(0, 3, 2)));
}

TEST(StepContext, StreamsDifferByStepPartSeedAndName) {
  const auto draw = [](StepContext step, const char* name) { return step.stream(name).next_u64(); };
  const StepContext step{.seed = 1, .step = 2, .steps = 9, .part = 0};
  EXPECT_EQ(draw(step, "a"), draw(step, "a"));
  for (const StepContext& other : {StepContext{2, 2, 9, 0}, StepContext{1, 3, 9, 0}, StepContext{1, 2, 9, 1}})
    EXPECT_NE(draw(step, "a"), draw(other, "a"));
  EXPECT_NE(draw(step, "a"), draw(step, "b"));
  EXPECT_EQ(draw(step, "a"), draw({1, 2, 100, 0}, "a"));  // not by how long the run is
}

TEST(HeadSchedule, GoesFromStartToEnd) {
  const auto at = [](const char* shape, double until, std::int64_t step) {
    return HeadSchedule{.start = 3, .end = 1, .shape = shape, .until = until}.at({0, step, 101, 0});
  };
  for (const char* shape : {"linear", "cosine", "stages", "constant"}) {
    EXPECT_EQ(at(shape, 1, 1), 3) << shape;
    EXPECT_EQ(at(shape, 1, 101), 1) << shape;
    EXPECT_EQ(at(shape, 0, 1), 1) << shape;
    for (std::int64_t step = 51; step <= 101; ++step) EXPECT_EQ(at(shape, 0.5, step), 1) << shape;
    EXPECT_EQ(HeadSchedule({.start = 3, .end = 1, .shape = shape}).at({0, 1, 1, 0}), 3) << shape;
  }
  EXPECT_DOUBLE_EQ(at("linear", 1, 26), 2.5);
  EXPECT_NEAR(at("cosine", 1, 26), 2 + std::sqrt(0.5), 1e-12);
  EXPECT_EQ(at("constant", 1, 100), 3);
  for (const auto& [step, level] : {std::pair{25, 0}, {26, 1}, {50, 1}, {51, 2}, {75, 2}, {76, 3}, {100, 3}})
    EXPECT_DOUBLE_EQ(at("stages", 1, step), 3 - level * 2.0 / 3) << step;
}

TEST(HeadSchedule, KnowsTheShareOfARunAtWhichItIsNotZero) {
  EXPECT_EQ(HeadSchedule({.start = 1, .end = 0.5}).share_of_run(), 1);
  EXPECT_EQ(HeadSchedule({.start = 0, .end = 0}).share_of_run(), 0);
  EXPECT_NEAR(HeadSchedule({.start = 1, .end = 0, .shape = "constant", .until = 0.3}).share_of_run(), 0.3, 0.002);
  EXPECT_NEAR(HeadSchedule({.start = 1, .end = 0, .shape = "stages"}).share_of_run(), 0.75, 0.002);
}

TEST(HeadSchedule, IsNotAskedOutsideTraining) {
  EXPECT_ERROR(HeadSchedule().at({}), "a schedule must be asked at one of a run's steps, got step 0 of 0");
  EXPECT_ERROR(HeadSchedule().at({0, 5, 4, 0}), "got step 5 of 4");
}

}  // namespace
}  // namespace lmhead
