#include "lmhead/heads/gradient_matrix.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr double kEigenvalueCutoff = 1e-12;

/// A has a finite trace, or the eigenvalue solver would fail with words of its own.
const at::Tensor& checked(const at::Tensor& matrix) {
  const double trace = matrix.trace().item<double>();
  require(std::isfinite(trace), "head_gradient", "the matrix of the rule must be finite, got trace ", trace);
  return matrix;
}

at::Tensor head(const HeadPass& pass, const at::Tensor&) { return gram(pass.map->weight); }

at::Tensor centered_head(const HeadPass& pass, const at::Tensor&) {
  const at::Tensor& weight = pass.map->weight;
  return gram(weight, {}, weight.mean(at::IntArrayRef{0}, /*keepdim=*/false, at::kDouble));
}

/// W^T p_t = g_t + w_{y_t} costs nothing where g_t is W^T (p_t - y_t) exactly.
bool is_plain(const HeadPass& pass) {
  return pass.feature_gradient.defined() && pass.loss.z_loss == 0 && pass.loss.label_smoothing == 0 &&
         !changes_logits(pass.map->transform);
}

at::Tensor fisher(const HeadPass& pass, const at::Tensor&) {
  const at::Tensor& weight = pass.map->weight;
  at::Tensor probability = at::zeros({weight.size(0)}, weight.options().dtype(at::kDouble));
  at::Tensor expected;  // e_t
  if (is_plain(pass)) {
    expected = pass.feature_gradient.to(at::kDouble) * pass.tokens_per_gradient + weight.index_select(0, pass.targets);
  } else {
    expected = at::empty({pass.hidden.size(0), weight.size(1)}, weight.options());
  }
  for_each_logit_block(pass, [&](std::int64_t first, const at::Tensor& logits) {
    const at::Tensor rows = at::softmax(logits, 1);
    probability += rows.sum(0);
    if (!is_plain(pass)) expected.narrow(0, first, rows.size(0)).copy_(at::mm(rows, weight));
  });
  probability = pass.processes.sum(probability);
  probability /= probability.sum();
  // Both terms around one centre: their difference would lose digits to the row that all of W has in common.
  const at::Tensor center =
      pass.processes.sum(expected.sum(at::IntArrayRef{0}, /*keepdim=*/false, at::kDouble)) / pass.rows();
  return gram(weight, probability, center) - pass.processes.sum(gram(expected, {}, center)) / pass.rows();
}

at::Tensor gradient_covariance(const HeadPass& pass, const at::Tensor& gradient) {
  const double scale = pass.tokens_per_gradient;
  return pass.processes.sum(gram(gradient)) * (scale * scale / pass.rows());
}

at::Tensor feature_covariance(const HeadPass& pass, const at::Tensor&) {
  return pass.processes.sum(gram(pass.hidden)) / pass.rows();
}

at::Tensor random(const HeadPass& pass, const at::Tensor& gradient) {
  const at::Tensor values = at::linalg_eigvalsh(checked(gradient_covariance(pass, gradient))).clamp_min(0);
  RandomStream stream(pass.seed, "head_gradient.random_basis");
  const at::Tensor basis = on_device(random_basis(values.size(0), values.size(0), stream), values.device());
  return at::mm(basis * values, basis.t());
}

struct Kind {
  const char* name;
  bool needs_linear_map;
  at::Tensor (*make)(const HeadPass& pass, const at::Tensor& gradient);
};
constexpr Kind kKinds[] = {
    {"head", true, head},
    {"centered_head", true, centered_head},
    {"fisher", true, fisher},
    {"gradient_covariance", false, gradient_covariance},
    {"feature_covariance", false, feature_covariance},
    {"random", false, random},
};

const Kind& kind_of(const std::string& name) {
  for (const Kind& kind : kKinds)
    if (name == kind.name) return kind;
  fail("head_gradient", "matrix must be a known one, got \"", name, '"');
}

}  // namespace

at::Tensor gram(const at::Tensor& rows, const at::Tensor& row_weight, const at::Tensor& center) {
  const std::int64_t count = rows.size(0), size = rows.size(1);
  const std::int64_t step = std::clamp<std::int64_t>((std::int64_t(1) << 20) / size, 64, 8192);  // 8 MB of float64
  at::Tensor sum = at::zeros({size, size}, rows.options().dtype(at::kDouble));
  for (std::int64_t first = 0; first < count; first += step) {
    const std::int64_t length = std::min(step, count - first);
    at::Tensor tile = rows.narrow(0, first, length).to(at::kDouble);
    if (center.defined()) tile = tile - center;
    const at::Tensor weighted = row_weight.defined() ? tile * row_weight.narrow(0, first, length).unsqueeze(1) : tile;
    sum.addmm_(weighted.t(), tile);
  }
  return sum;
}

at::Tensor inverse_power(const at::Tensor& matrix, double exponent, double damping) {
  const auto [values, vectors] = at::linalg_eigh(checked(matrix));
  const at::Tensor positive = values.clamp_min(0), shifted = positive + damping * positive.mean();
  const at::Tensor kept = shifted.gt(kEigenvalueCutoff * shifted.max());
  const at::Tensor powers = at::where(kept, shifted.pow(-exponent), at::zeros_like(shifted));
  return at::mm(vectors * powers, vectors.t());
}

at::Tensor top_projection(const at::Tensor& matrix, std::int64_t rank) {
  const at::Tensor vectors = std::get<1>(at::linalg_eigh(checked(matrix)));  // by rising eigenvalue
  const at::Tensor top = vectors.narrow(1, vectors.size(1) - rank, rank);
  return at::mm(top, top.t());
}

at::Tensor random_basis(std::int64_t size, std::int64_t rank, RandomStream& stream) {
  at::Tensor normal = at::empty({size, rank}, at::kDouble);
  auto* values = normal.mutable_data_ptr<double>();
  for (std::int64_t index = 0; index < normal.numel(); ++index) values[index] = stream.normal();
  return std::get<0>(at::linalg_qr(normal, "reduced"));
}

at::Tensor whitening_matrix(const std::string& name, const HeadPass& pass, const at::Tensor& gradient) {
  return kind_of(name).make(pass, gradient);
}

bool matrix_needs_linear_map(const std::string& name) { return kind_of(name).needs_linear_map; }

RefreshedMatrix::RefreshedMatrix(std::string name, std::int64_t size, std::optional<std::int64_t> every,
                                 c10::Device device)
    : name_(std::move(name)),
      every_(every),
      value_(at::zeros({size, size}, at::TensorOptions(device).dtype(at::kFloat))) {}

const at::Tensor& RefreshedMatrix::at_pass(const HeadPass& pass, const std::function<at::Tensor()>& make) {
  const bool due = every_ ? (pass.step - 1) % *every_ == 0 : pass.step == 1;
  if (due && pass.part == 0) value_.copy_(make());  // in place: the state is this very tensor
  return value_;
}

std::vector<std::pair<std::string, at::Tensor>> RefreshedMatrix::state() const {
  if (every_ == 1) return {};
  return {{name_, value_}};
}

}  // namespace lmhead
