#include "lmhead/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace lmhead {
namespace {

ScheduleOptions of(const std::string& type, std::int64_t warmup, double final_fraction, double decay = 0.2) {
  ScheduleOptions options;
  options.type = type;
  options.warmup_steps = warmup;
  options.final_fraction = final_fraction;
  options.decay_fraction = decay;
  return options;
}

const char* const kTypes[] = {"cosine", "linear", "wsd", "constant"};

TEST(Schedule, WarmsUpLinearlyWhateverTheShape) {
  for (const char* type : kTypes)
    for (std::int64_t step = 1; step <= 10; ++step)
      EXPECT_DOUBLE_EQ(schedule_factor(of(type, 10, 0.1), step, 100), double(step) / 10) << type;
}

TEST(Schedule, CosineIsHalfACosineDownToTheFinalFraction) {
  const auto options = of("cosine", 10, 0.1);
  for (std::int64_t step = 10; step <= 110; ++step)
    EXPECT_NEAR(schedule_factor(options, step, 110), 0.55 + 0.45 * std::cos(std::numbers::pi * double(step - 10) / 100),
                1e-12);
}

TEST(Schedule, LinearFallsEvenly) {
  const auto options = of("linear", 10, 0.2);
  for (std::int64_t step = 10; step <= 110; ++step)
    EXPECT_NEAR(schedule_factor(options, step, 110), 1 - 0.8 * double(step - 10) / 100, 1e-12);
}

TEST(Schedule, WsdStaysThenFallsOverItsLastPart) {
  const auto options = of("wsd", 10, 0, 0.25);
  for (std::int64_t step = 10; step <= 75; ++step) EXPECT_EQ(schedule_factor(options, step, 100), 1);
  for (std::int64_t step = 75; step <= 100; ++step)
    EXPECT_NEAR(schedule_factor(options, step, 100), double(100 - step) / 25, 1e-12);
}

TEST(Schedule, ConstantStays) {
  for (std::int64_t step = 10; step <= 100; ++step) EXPECT_EQ(schedule_factor(of("constant", 10, 0.1), step, 100), 1);
}

TEST(Schedule, EndsAtTheFinalFraction) {
  for (const char* type : {"cosine", "linear", "wsd"})
    for (const double fraction : {0.0, 0.1, 1.0})
      EXPECT_NEAR(schedule_factor(of(type, 10, fraction), 100, 100), fraction, 1e-12) << type;
}

TEST(Schedule, OddLengthsGiveFactorsBetweenZeroAndOne) {
  for (const char* type : kTypes)
    for (const std::int64_t warmup : {0, 1, 5, 50})
      for (const std::int64_t steps : {1, 2, 5, 6})
        for (const double decay : {0.0, 0.5, 1.0})
          for (std::int64_t step = 1; step <= steps; ++step) {
            const double factor = schedule_factor(of(type, warmup, 0.1, decay), step, steps);
            EXPECT_TRUE(factor > 0 && factor <= 1)
                << type << ' ' << warmup << ' ' << step << '/' << steps << ": " << factor;
          }
}

}  // namespace
}  // namespace lmhead
