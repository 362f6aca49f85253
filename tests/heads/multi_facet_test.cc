#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

TEST(MultiFacetHead, BeginsAsTheLinearHead) {
  const HeadContext context{9, 33, fresh_parameters(5), 0.5, nullptr};
  const auto head = specification_of("multi_facet", {Json::object()}).make(context);
  const auto linear = specification_of("linear", {Json::object()}).make(context);
  const Bench bench("multi_facet", {Json::object()}, {16, 33, 9});
  const at::Tensor got = head->token_losses(bench.input(), bench.targets);
  EXPECT_LE((got - linear->token_losses(bench.input(), bench.targets)).abs().max().item<double>(), 1e-5);
}

TEST(MultiFacetHead, IsExactWhereTheFacetTakesAllFromAWord) {
  // Logits so far apart that the rest of a sum less what the facet replaces would be nothing but rounding.
  Bench bench("multi_facet", {Json::object()}, {16, 33, 9});
  {
    at::NoGradGuard no_grad;
    for (const ParameterPtr& parameter : bench.all)
      if (parameter->name == "lm_head.weight") {
        parameter->value.mul_(15);
        bench.values[parameter->name] = parameter->value.detach().to(at::kDouble);
      }
  }
  const at::Tensor want = reference_token_losses(bench.reference(), bench.targets);
  const at::Tensor got = bench.head->token_losses(bench.input(), bench.targets);
  EXPECT_LE((got - want).abs().max().item<double>(), 1e-4);
  EXPECT_GT(want.max().item<double>(), 30);
}

TEST(MultiFacetHead, BadSettingsAreRefusedInOneLine) {
  EXPECT_ERROR(specification_of("multi_facet", {{{"width", 0}}}), "width must be");
}

}  // namespace
}  // namespace lmhead
