#include "lmhead/heads/weight_gradient_rule.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "lmhead/heads/gradient_matrix.h"

namespace lmhead {
namespace {

/// Calls `use(first, length)` for tiles of rows.
void for_each_tile(const at::Tensor& rows, const std::function<void(std::int64_t, std::int64_t)>& use) {
  const std::int64_t step = std::clamp<std::int64_t>((std::int64_t(1) << 20) / rows.size(1), 64, 8192);
  for (std::int64_t first = 0; first < rows.size(0); first += step) use(first, std::min(step, rows.size(0) - first));
}

at::Tensor tile(const at::Tensor& rows, std::int64_t first, std::int64_t length) {
  return rows.narrow(0, first, length).to(at::kDouble);
}

}  // namespace

at::Tensor project_on_columns(const at::Tensor& weight, const at::Tensor& gradient) {
  at::Tensor product = at::zeros({weight.size(1), gradient.size(1)}, weight.options().dtype(at::kDouble));
  for_each_tile(weight, [&](std::int64_t first, std::int64_t length) {
    product.addmm_(tile(weight, first, length).t(), tile(gradient, first, length));
  });
  const at::Tensor coordinates = at::mm(inverse_power(gram(weight), 1, 0), product);
  at::Tensor projected = at::empty_like(gradient);
  for_each_tile(weight, [&](std::int64_t first, std::int64_t length) {
    projected.narrow(0, first, length).copy_(at::mm(tile(weight, first, length), coordinates));
  });
  return projected;
}

Penalty orthogonality_penalty(const at::Tensor& weight) {
  const double size = double(weight.size(1));
  const at::Tensor matrix = gram(weight);
  const double trace = matrix.trace().item<double>(), square = matrix.square().sum().item<double>();
  if (trace == 0) return {0, at::zeros_like(weight)};
  const at::Tensor inner = matrix - at::eye(weight.size(1), matrix.options()) * (square / trace);
  return {size * square / (trace * trace) - 1,
          at::mm(weight, (inner * (4 * size / (trace * trace))).to(weight.scalar_type()))};
}

Penalty alignment_penalty(const HeadPass& pass) {
  const at::Tensor& weight = pass.map->weight;
  const at::Tensor matrix = gram(weight);                                            // A
  at::Tensor covariance = at::zeros_like(matrix), crossed = at::zeros_like(weight);  // M, R
  double energy = 0;
  for_each_logit_block(pass, [&](std::int64_t first, const at::Tensor& logits) {
    const at::Tensor rows = logit_gradient(pass, first, logits), seen = at::mm(rows, weight);
    crossed.addmm_(rows.t(), seen);
    covariance += gram(seen);
    energy += rows.square().sum(at::kDouble).item<double>();
  });
  pass.processes.sum(std::vector<at::Tensor>{crossed, covariance});
  energy = pass.processes.sum(energy);
  const double seen_energy = covariance.trace().item<double>(),
               step_energy = (covariance * matrix).sum().item<double>();
  if (!(seen_energy > 0 && step_energy > 0)) return {1, at::zeros_like(weight)};
  const double cosine = seen_energy / std::sqrt(step_energy * energy);
  const auto product = [&](const at::Tensor& left, const at::Tensor& right) {
    return at::mm(left, (right * (cosine / step_energy)).to(weight.scalar_type()));
  };
  return {1 - cosine, product(weight, covariance) + product(crossed, matrix) - crossed * (2 * cosine / seen_energy)};
}

}  // namespace lmhead
