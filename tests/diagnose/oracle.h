// Random problems and the float64 definitions that the diagnostics are held against: everything materialised.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/one_hot.h>

#include <cmath>
#include <string_view>

#include "lmhead/base/random.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead::oracle {

/// Standard normal float64 values that depend on the name alone.
inline at::Tensor normal(std::string_view name, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  RandomStream stream(17, name);
  double* values = tensor.mutable_data_ptr<double>();
  for (std::int64_t index = 0; index < tensor.numel(); ++index) values[index] = stream.normal();
  return tensor;
}

inline at::Tensor random_ids(std::string_view name, std::int64_t count, std::int64_t bound) {
  at::Tensor tensor = at::empty({count}, at::kLong);
  RandomStream stream(17, name);
  auto* values = tensor.mutable_data_ptr<std::int64_t>();
  for (std::int64_t index = 0; index < count; ++index) values[index] = std::int64_t(stream.below(bound));
  return tensor;
}

struct Problem {
  at::Tensor hidden, targets;
  LinearMap map;
};
/// Logits of spread about 1, float64.
inline Problem problem(std::int64_t tokens, std::int64_t hidden_size, std::int64_t vocab_size) {
  Problem made;
  made.hidden = normal("hidden", {tokens, hidden_size});
  made.targets = random_ids("targets", tokens, vocab_size);
  made.map.weight = normal("weight", {vocab_size, hidden_size}) / std::sqrt(double(hidden_size));
  return made;
}

/// d loss_t / d product_t, [N, V]: (p - y), times the slope of scale and soft-cap.
inline at::Tensor logit_gradient(const Problem& problem) {
  const LinearMap& map = problem.map;
  at::Tensor product = at::matmul(problem.hidden, map.weight.t());
  if (map.bias.defined()) product = product + map.bias;
  at::Tensor logits = product * map.transform.scale, slope = logits.new_full(logits.sizes(), map.transform.scale);
  if (map.transform.softcap > 0) {
    logits = (logits / map.transform.softcap).tanh() * map.transform.softcap;
    slope = slope / (product * map.transform.scale / map.transform.softcap).cosh().square();
  }
  return (logits.softmax(1) - at::one_hot(problem.targets, map.weight.size(0)).to(at::kDouble)) * slope;
}

/// Orthonormal basis of col(weight), [V, rank], by singular value decomposition in float64.
inline at::Tensor basis(const at::Tensor& weight, double cutoff = 1e-9) {
  const auto [left, values, right] = at::linalg_svd(weight.to(at::kDouble), false);
  return left.narrow(1, 0, values.gt(cutoff * values[0]).sum().item<std::int64_t>());
}

/// Each row's share of energy in the span of `basis`, and of all rows together.
inline double retained_energy(const at::Tensor& gradient, const at::Tensor& basis) {
  return (at::matmul(gradient, basis).square().sum() / gradient.square().sum()).item<double>();
}

inline double step_cosine(const at::Tensor& gradient, const at::Tensor& weight) {
  const at::Tensor step = at::matmul(at::matmul(gradient, weight), weight.t());
  return ((gradient * step).sum() / (gradient.norm() * step.norm())).item<double>();
}

}  // namespace lmhead::oracle
