#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

TEST(NormalizedHead, NormsOfWordsAndFeaturesSayNothing) {
  Bench bench("normalized", {Json::object()}, {16, 33, 9});
  const at::Tensor before = bench.head->logits(bench.input());
  at::NoGradGuard no_grad;
  for (const ParameterPtr& parameter : bench.all)
    if (parameter->name == "lm_head.weight") parameter->value.mul_(normal({33, 1}, "norms").abs().to(at::kFloat) + 0.1);
  bench.hidden.mul_(3.5);
  EXPECT_LE((bench.head->logits(bench.input()) - before).abs().max().item<double>(), 1e-5);
}

TEST(NormalizedHead, IsTheLinearHeadWhereEveryNormIsOne) {
  const Shape shape = {16, 33, 9};
  Bench bench("normalized", {Json::object()}, shape), linear("linear", {Json::object()}, shape);
  at::NoGradGuard no_grad;
  const auto unit = [](const at::Tensor& rows) { return rows / rows.square().sum({1}, true).sqrt(); };
  bench.hidden.copy_(unit(bench.hidden));
  for (const ParameterPtr& parameter : bench.all)
    if (parameter->name == "lm_head.weight") linear.all[0]->value.copy_(unit(parameter->value));
    else parameter->value.fill_(0);  // s = 1
  linear.hidden.copy_(bench.hidden);
  EXPECT_LE((bench.head->token_losses(bench.input(), bench.targets) -
             linear.head->token_losses(linear.input(), bench.targets))
                .abs()
                .max()
                .item<double>(),
            1e-5);
}

TEST(NormalizedHead, BeginsWithLogitsOfVarianceOneOrTheScaleGiven) {
  const at::Tensor hidden = normal({256, 64}, "features").to(at::kFloat);
  for (const double scale : {0.0, 2.0}) {
    const Json options = scale > 0 ? Json{{"initial_scale", scale}} : Json::object();
    const HeadContext context{64, 2048, fresh_parameters(0), 0.02, nullptr};
    const at::Tensor logits = specification_of("normalized", {options}).make(context)->logits({.hidden = hidden});
    EXPECT_NEAR(logits.square().mean().sqrt().item<double>(), scale > 0 ? scale / 8 : 1, 0.03);
  }
  EXPECT_ERROR(specification_of("normalized", {{{"initial_scale", 0}}}), "initial_scale must be");
}

}  // namespace
}  // namespace lmhead
