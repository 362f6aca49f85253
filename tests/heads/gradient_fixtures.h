// A head, a batch and their gradients in float64, for rules on gradients.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <string>

#include "lmhead/heads/head_pass.h"
#include "lmhead/heads/hidden_gradient_rule.h"
#include "tests/heads/head_bench.h"

namespace lmhead {

inline double largest_of(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

inline void expect_near(const at::Tensor& got, const at::Tensor& want, double relative) {
  ASSERT_EQ(got.sizes(), want.sizes());
  const at::Tensor wanted = want.to(at::kDouble);
  EXPECT_LE(largest_of(got.to(at::kDouble) - wanted), relative * largest_of(wanted));
}

/// W [V, D], h [N, D] and targets whose values float32 holds exactly, with P - Y and dL/dH in float64. The two
/// micro-batches of a step halve dL/dH, so that a rule which mistakes it for the tokens' own gradients is seen.
struct GradientBench {
  explicit GradientBench(const Shape& shape = {40, 23, 6}, const std::string& name = "bench") {
    weight = normal({shape.vocab_size, shape.hidden_size}, name + "weight", 0.4).to(at::kFloat);
    hidden = normal({shape.rows, shape.hidden_size}, name + "hidden").to(at::kFloat);
    pass.hidden = hidden;
    pass.targets = draw_targets(shape.rows, shape.vocab_size);
    pass.map = LinearMap{weight, {}, 1, 0};
    pass.tokens_per_gradient = 2 * double(shape.rows);
    weight64 = weight.to(at::kDouble);
    probability = at::softmax(hidden.to(at::kDouble).matmul(weight64.t()), 1);
    difference = probability - at::zeros_like(probability).scatter_(1, pass.targets.unsqueeze(1), 1.0);
    token_gradient = difference.matmul(weight64);
    gradient64 = token_gradient / pass.tokens_per_gradient;
    gradient = gradient64.to(at::kFloat);
    pass.feature_gradient = gradient;
    context = {shape.hidden_size, shape.vocab_size, true, 0.02, 7};
    pass.seed = context.seed;
  }
  std::unique_ptr<HiddenGradientRule> rule(const Json& json) const {
    return make_hidden_gradient_rule(read_options<HiddenGradientOptions>(json), context);
  }
  at::Tensor apply(const Json& json) const { return rule(json)->apply(gradient, pass); }
  /// V_k V_k^T from the singular value decomposition of W itself.
  at::Tensor top(std::int64_t rank) const {
    const at::Tensor v = std::get<2>(at::linalg_svd(weight64, false)).narrow(0, 0, rank);
    return v.t().matmul(v);
  }

  at::Tensor weight, hidden, gradient;  // float32; the last is what backward gives
  at::Tensor weight64, probability, difference, token_gradient, gradient64;
  HeadPass pass;
  GradientRuleContext context;
};

}  // namespace lmhead
