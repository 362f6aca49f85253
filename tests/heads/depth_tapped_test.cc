// When the depth_tapped head is the linear one, and what it refuses.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/beside_linear.h"

namespace lmhead {
namespace {

TEST(DepthTappedHead, WithOneBlockAndTheLastLayerIsTheLinearHead) {
  Bench bench("depth_tapped", {{{"blocks", 1}, {"taps", 0}, {"width", 0}}}, kBesideLinear);
  {
    at::NoGradGuard no_grad;
    parameter_named(bench, "lm_head.mix")->value.fill_(1);
  }
  expect_linear(bench, 2e-6);  // a logsumexp and a logit rounded apart, of about 5
}

TEST(DepthTappedHead, BeginsAsTheLinearHead) {
  const HeadContext context{.hidden_size = 6,
                            .vocab_size = 20,
                            .source = fresh_parameters(0),
                            .initializer_range = 1,
                            .num_hidden_layers = 4};
  const auto linear = specification_of("linear", {Json::object()}).make(context);
  const auto tapped = specification_of("depth_tapped", {Json::object()}).make(context);
  const at::Tensor hidden = normal({5, 6}, "hidden").to(at::kFloat), layer = normal({5, 6}, "layer").to(at::kFloat);
  EXPECT_LE(difference(tapped->logits({.hidden = hidden, .layers = {layer}}), linear->logits({.hidden = hidden})),
            1e-5);
}

TEST(DepthTappedHead, BadSettingsAreRefused) {
  const HeadContext context{
      .hidden_size = 4, .vocab_size = 9, .source = fresh_parameters(0), .initializer_range = 1, .num_hidden_layers = 2};
  const auto make = [&](const Json& json) { specification_of("depth_tapped", {json}).make(context); };
  EXPECT_ERROR(make({{"blocks", 10}}), "[depth_tapped] blocks must be at most V = 9, got 10");
  EXPECT_ERROR(make({{"taps", 2}}), "[depth_tapped] taps must be below num_hidden_layers = 2, got 2");
}

}  // namespace
}  // namespace lmhead
