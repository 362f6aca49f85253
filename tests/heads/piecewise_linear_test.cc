#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

constexpr Shape kShape = {16, 33, 9};

ParameterPtr parameter_of(const Bench& bench, const std::string& name) {
  for (const ParameterPtr& parameter : bench.all)
    if (parameter->name == name) return parameter;
  return nullptr;
}

TEST(PiecewiseLinearHead, BeginsAsTheLinearHead) {
  const HeadContext context{9, 33, fresh_parameters(0), 0.5, nullptr};
  const auto head = specification_of("piecewise_linear", {Json::object()}).make(context),
             linear = specification_of("linear", {Json::object()}).make(context);
  const HeadInput input{.hidden = normal({16, 9}, "features").to(at::kFloat)};
  EXPECT_LE((head->logits(input) - linear->logits(input)).abs().max().item<double>(), 1e-5);
}

TEST(PiecewiseLinearHead, OfEqualSlopesIsATemperature) {
  Bench bench("piecewise_linear", {Json::object()}, kShape), linear("linear", {Json::object()}, kShape);
  at::NoGradGuard no_grad;
  linear.all[0]->value.copy_(parameter_of(bench, "lm_head.weight")->value * 2);
  parameter_of(bench, "lm_head.log_slopes")->value.fill_(std::log(2.0));
  EXPECT_LE((bench.head->token_losses(bench.input(), bench.targets) -
             linear.head->token_losses(linear.input(), linear.targets))
                .abs()
                .max()
                .item<double>(),
            2e-5);
}

TEST(PiecewiseLinearHead, KeepsTheOrderOfWords) {
  Bench bench("piecewise_linear", {{{"range", 2.0}}}, kShape), linear("linear", {Json::object()}, kShape);
  at::NoGradGuard no_grad;
  linear.all[0]->value.copy_(parameter_of(bench, "lm_head.weight")->value);
  EXPECT_TRUE(
      bench.head->logits(bench.input()).argsort(1, false).equal(linear.head->logits(linear.input()).argsort(1, false)));
}

TEST(PiecewiseLinearHead, RefusesPiecesThatHaveNoKnotAtZero) {
  const HeadContext context{9, 33, fresh_parameters(0), 0.5, nullptr};
  EXPECT_ERROR(specification_of("piecewise_linear", {{{"pieces", 5}}}).make(context), "pieces must be even, got 5");
  EXPECT_ERROR(specification_of("piecewise_linear", {{{"pieces", 34}}}), "pieces must be");
  EXPECT_ERROR(specification_of("piecewise_linear", {{{"range", 0}}}), "range must be");
}

}  // namespace
}  // namespace lmhead
