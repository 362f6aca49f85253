// When the multi_resolution head is the linear one, and what it refuses.
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/beside_linear.h"

namespace lmhead {
namespace {

TEST(MultiResolutionHead, IsTheLinearHeadOnceLevelsWeighNothing) {
  Bench bench("multi_resolution", {Json::object()}, kBesideLinear);
  bench.step.step = bench.step.steps;
  expect_linear(bench, 0);
}

TEST(MultiResolutionHead, BadSettingsAreRefused) {
  const HeadContext context{.hidden_size = 4, .vocab_size = 9, .source = fresh_parameters(0), .initializer_range = 1};
  const auto make = [&](const Json& json) { specification_of("multi_resolution", {json}).make(context); };
  for (const char* classes : {"[4, 4]", "[5, 3]", "[10]"})
    EXPECT_ERROR(make({{"classes", Json::parse(classes)}}),
                 std::string("[multi_resolution] classes must rise and be at most V = 9, got ") + classes);
  EXPECT_ERROR(make({{"classes", {1}}}), "classes");
  EXPECT_ERROR(make({{"prefix", true}}), "[head] head.prefix asks for the bytes of tokens");
}

}  // namespace
}  // namespace lmhead
