// Heads that are the linear one to all but training: what training adds, and when it stops.
#pragma once

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/heads/head_bench.h"

namespace lmhead {

/// At the last step the weight is 0, and the head is the linear one bit for bit.
inline void expect_linear_at_the_end(const char* type) {
  const Shape shape = {40, 65, 12};
  Bench linear("linear", {Json::object()}, shape), bench(type, {Json::object()}, shape);
  {
    at::NoGradGuard no_grad;
    bench.all[0]->value.copy_(linear.all[0]->value);
  }
  EXPECT_TRUE(bench.head->logits(bench.input()).equal(linear.head->logits(linear.input())));
  EXPECT_FALSE(bench.head->loss(bench.input(), bench.targets).equal(linear.head->loss(linear.input(), linear.targets)));
  bench.step.step = bench.step.steps;
  linear.require_gradients();
  bench.require_gradients();
  const at::Tensor want = linear.head->loss(linear.input(), linear.targets, {.z_loss = 0.1, .label_smoothing = 0.1});
  const at::Tensor got = bench.head->loss(bench.input(), bench.targets, {.z_loss = 0.1, .label_smoothing = 0.1});
  EXPECT_TRUE(got.equal(want));
  want.backward();
  got.backward();
  EXPECT_TRUE(bench.hidden.grad().equal(linear.hidden.grad()));
  EXPECT_TRUE(bench.all[0]->value.grad().equal(linear.all[0]->value.grad()));
  for (std::size_t index = 1; index < bench.all.size(); ++index)
    EXPECT_FALSE(bench.all[index]->value.grad().defined()) << bench.all[index]->name;
}

}  // namespace lmhead
