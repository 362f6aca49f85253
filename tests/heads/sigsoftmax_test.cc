#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

TEST(SigsoftmaxHead, IsTheLinearHeadFarAboveZeroAndOfTwiceTheLogitsFarBelow) {
  for (const bool above : {true, false}) {
    const Shape shape = {16, 33, 9};
    Bench bench("sigsoftmax", {{{"bias", true}}}, shape), linear("linear", {Json::object()}, shape);
    at::NoGradGuard no_grad;
    for (const ParameterPtr& parameter : bench.all)
      if (parameter->name == "lm_head.bias") parameter->value.fill_(above ? 40 : -40);
      else linear.all[0]->value.copy_(parameter->value * (above ? 1 : 2));
    const at::Tensor got = bench.head->token_losses(bench.input(), bench.targets);
    EXPECT_LE((got - linear.head->token_losses(linear.input(), linear.targets)).abs().max().item<double>(), 1e-4);
  }
}

TEST(SigsoftmaxHead, HasALinearMapWithThatTransform) {
  const Bench bench("sigsoftmax", {Json::object()}, {4, 7, 5});
  EXPECT_TRUE(bench.head->linear_map()->transform.sigsoftmax);
  EXPECT_EQ(bench.head->own_matrix()->name, "lm_head.weight");
}

}  // namespace
}  // namespace lmhead
