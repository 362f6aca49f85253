#include "lmhead/run/run.h"

#include <gtest/gtest.h>

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

TEST(Run, RefusesToObserveNothing) {
  const ScratchFolder scratch;
  write_dataset(scratch / "data");
  Json configuration = tiny_configuration(scratch / "data");
  configuration["observe"]["diagnostics"] = {{"every", 2}};
  EXPECT_THROW(run_training(configuration, scratch / "run", {}), Error);
}

}  // namespace
}  // namespace lmhead
