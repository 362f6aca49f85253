// Heads that are the linear head under some settings, beside it.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "lmhead/base/error.h"
#include "tests/heads/head_bench.h"

namespace lmhead {

inline ParameterPtr parameter_named(const Bench& bench, const std::string& name) {
  for (const ParameterPtr& parameter : bench.all)
    if (parameter->name == name) return parameter;
  fail("test", "there must be ", name);
}

inline constexpr Shape kBesideLinear = {40, 65, 12};

inline double difference(const at::Tensor& left, const at::Tensor& right) {
  return (left - right).abs().max().item<double>();
}

/// Gives `bench`, of shape kBesideLinear, the linear head's matrix and compares everything. The bench's counts fall
/// with the id, so rows stand in the order of ids where words are cut by count.
inline void expect_linear(Bench& bench, double tolerance) {
  Bench linear("linear", {Json::object()}, kBesideLinear);
  {
    at::NoGradGuard no_grad;
    parameter_named(bench, "lm_head.weight")->value.copy_(linear.all[0]->value);
  }
  linear.require_gradients();
  bench.require_gradients();
  const at::Tensor want = linear.head->loss(linear.input(), linear.targets, {.label_smoothing = 0.1});
  const at::Tensor got = bench.head->loss(bench.input(), bench.targets, {.label_smoothing = 0.1});
  EXPECT_NEAR(got.item<double>(), want.item<double>(), tolerance);
  EXPECT_LE(difference(bench.head->logits(bench.input()), linear.head->logits(linear.input())), tolerance);
  want.backward();
  got.backward();
  EXPECT_LE(difference(bench.hidden.grad(), linear.hidden.grad()), tolerance);
  EXPECT_LE(difference(parameter_named(bench, "lm_head.weight")->value.grad(), linear.all[0]->value.grad()), tolerance);
}

}  // namespace lmhead
