#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

TEST(TokenSkipHead, BeginsAsTheLinearHead) {
  for (const int order : {1, 2, 3}) {
    const HeadContext context{9, 33, fresh_parameters(5), 0.5, nullptr};
    const auto head = specification_of("token_skip", {{{"order", order}}}).make(context);
    const auto linear = specification_of("linear", {Json::object()}).make(context);
    const Bench bench("token_skip", {{{"order", order}}}, {16, 33, 9});
    const at::Tensor got = head->token_losses(bench.input(), bench.targets);
    EXPECT_LE((got - linear->token_losses(bench.input(), bench.targets)).abs().max().item<double>(), 1e-5);
  }
}

TEST(TokenSkipHead, TheBodysGradientIsThatOfTheLinearHeadWithTheSameProbabilities) {
  // With W = 0 nothing of the table may reach the features.
  Bench bench("token_skip", {{{"width", 4}}}, {16, 33, 9});
  {
    at::NoGradGuard no_grad;
    for (const ParameterPtr& parameter : bench.all)
      if (parameter->name == "lm_head.weight") parameter->value.narrow(1, 0, bench.hidden.size(1)).fill_(0);
  }
  bench.require_gradients();
  bench.head->loss(bench.input(), bench.targets).backward();
  EXPECT_EQ(bench.hidden.grad().abs().max().item<double>(), 0);
}

TEST(TokenSkipHead, BadSettingsAreRefusedInOneLine) {
  EXPECT_ERROR(specification_of("token_skip", {{{"order", 4}}}), "order must be");
  EXPECT_ERROR(specification_of("token_skip", {{{"buckets", 0}}}), "buckets must be");
}

}  // namespace
}  // namespace lmhead
