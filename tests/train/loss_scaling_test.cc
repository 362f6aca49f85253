// Training in float16: gradients survive by the loss's scale, and a step whose gradient is not finite is no step.
#include "lmhead/train/loss_scaling.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/train/train_fixtures.h"

namespace lmhead {
namespace {

TEST(LossScale, HalvesAfterASkippedStepAndDoublesAfterManyFiniteOnes) {
  LossScale scale{.factor = 8};
  scale.note(false);
  EXPECT_EQ(scale.factor, 4);
  EXPECT_EQ(scale.skipped_steps, 1);
  for (std::int64_t step = 1; step < LossScale::kGrowthInterval; ++step) scale.note(true);
  EXPECT_EQ(scale.factor, 4);
  scale.note(true);
  EXPECT_EQ(scale.factor, 8);
  for (int step = 0; step < 3; ++step) scale.note(false);
  EXPECT_EQ(scale.factor, 1);
  EXPECT_FALSE(scale.can_fall());
  LossScale none;
  none.note(false);
  EXPECT_EQ(none.skipped_steps, 0);
}

class Float16Runs : public testing::Test {
 protected:
  Float16Runs() { write_dataset(scratch_ / "data"); }
  Json configuration(const char* precision = "float16") const {
    Json json = tiny_configuration(scratch_ / "data");
    json["training"]["precision"] = precision;
    return json;
  }
  /// A run whose gradients at `steps` are not finite, stopped after `last`.
  Trainer broken_at(const std::vector<std::int64_t>& steps, const std::string& name) {
    Trainer trainer = make_trainer(configuration(), scratch_ / name);
    trainer.set_gradient_hook([steps, step = trainer.resumed_step()](std::vector<at::Tensor>& gradients) mutable {
      if (std::ranges::find(steps, ++step) != steps.end()) gradients.back().fill_(INFINITY);
    });
    return trainer;
  }
  const ScratchFolder scratch_;
};

TEST_F(Float16Runs, AreThoseOfFloat32WithinRounding) {
  make_trainer(configuration("float32"), scratch_ / "float32").run();
  make_trainer(configuration(), scratch_ / "float16").run();
  const std::vector<Json> want = read_log(scratch_ / "float32"), got = read_log(scratch_ / "float16");
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t step = 0; step < want.size(); ++step) {
    // Products have 11 bits; forty steps of learning pass their rounding on.
    EXPECT_NEAR(got[step].at("loss").get<double>(), want[step].at("loss").get<double>(), 0.02) << step;
    EXPECT_NEAR(got[step].at("gradient_norm").get<double>(), want[step].at("gradient_norm").get<double>(), 0.05)
        << step;
    EXPECT_EQ(got[step].at("loss_scale"), LossScale::kFirst);
    EXPECT_EQ(got[step].at("skipped_steps"), 0);
    EXPECT_FALSE(want[step].contains("loss_scale"));
  }
}

TEST_F(Float16Runs, SkipStepsWhoseGradientIsNotFinite) {
  EXPECT_TRUE(broken_at({3, 4, 9}, "run").run());
  const std::vector<Json> lines = read_log(scratch_ / "run");
  EXPECT_FALSE(lines[2].contains("gradient_norm"));
  EXPECT_EQ(lines[2].at("loss_scale"), LossScale::kFirst);
  EXPECT_EQ(lines[2].at("skipped_steps"), 1);
  EXPECT_EQ(lines[3].at("loss_scale"), LossScale::kFirst / 2);
  EXPECT_EQ(lines[3].at("skipped_steps"), 2);
  EXPECT_EQ(lines[4].at("loss_scale"), LossScale::kFirst / 4);
  EXPECT_EQ(lines.back().at("skipped_steps"), 3);
  EXPECT_LT(lines.back().at("loss"), lines.front().at("loss"));
}

TEST_F(Float16Runs, ASkippedStepChangesNoParameter) {
  Json json = configuration();
  json["training"]["checkpoint_every"] = 1;
  json["training"]["keep_last"] = 40;
  Trainer trainer = make_trainer(json, scratch_ / "run");
  trainer.set_gradient_hook([step = 0](std::vector<at::Tensor>& gradients) mutable {
    if (++step == 3) gradients.back().fill_(NAN);
  });
  trainer.run();
  const auto file = [&](const char* step, const char* name) {
    return read_file(scratch_ / "run" / "checkpoints" / step / name);
  };
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(file("step-00000002", name) == file("step-00000003", name)) << name;
    EXPECT_FALSE(file("step-00000003", name) == file("step-00000004", name)) << name;
  }
}

TEST_F(Float16Runs, GoOnWithTheScaleThatTheyHad) {
  const std::vector<std::int64_t> broken = {3, 9, 12};
  EXPECT_TRUE(broken_at(broken, "whole").run());
  EXPECT_FALSE(broken_at(broken, "stopped").run({.should_stop = [count = 0]() mutable { return ++count == 10; }}));
  Trainer rest = broken_at(broken, "stopped");
  EXPECT_EQ(rest.resumed_step(), 10);
  EXPECT_TRUE(rest.run());
  EXPECT_EQ(figures_of(scratch_ / "stopped"), figures_of(scratch_ / "whole"));
}

TEST_F(Float16Runs, AGradientThatNoScaleMakesFiniteIsADivergence) {
  std::vector<std::int64_t> all;
  for (std::int64_t step = 1; step <= 40; ++step) all.push_back(step);
  EXPECT_ERROR(broken_at(all, "run").run(), "[train] the gradient's norm must be finite, got inf at step 17");
}

TEST_F(Float16Runs, RefuseRulesThatSeeScaledGradients) {
  Json json = configuration();
  json["head_gradient"] = {{"hidden", {{"rule", "row_normalized"}}}};
  EXPECT_ERROR(make_trainer(json, scratch_ / "run"),
               "[train] head_gradient must have no rule where training.precision is float16");
}

}  // namespace
}  // namespace lmhead
