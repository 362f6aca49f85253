// The residual_expansion head begins as the linear one.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/data/data_fixtures.h"
#include "tests/heads/beside_linear.h"

namespace lmhead {
namespace {

TEST(ResidualExpansionHead, BeginsAsTheLinearHead) {
  const HeadContext context{.hidden_size = 6, .vocab_size = 20, .source = fresh_parameters(0), .initializer_range = 1};
  const auto linear = specification_of("linear", {Json::object()}).make(context);
  const auto expanded = specification_of("residual_expansion", {Json::object()}).make(context);
  const at::Tensor hidden = normal({5, 6}, "hidden").to(at::kFloat);
  EXPECT_LE(difference(expanded->logits({.hidden = hidden}), linear->logits({.hidden = hidden})), 1e-5);
}

}  // namespace
}  // namespace lmhead
