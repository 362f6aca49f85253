// Energies of one half of the tokens in the best space of the other need no more than G G^T: they are entries of it
// (G_b V_a = G_b G_a^T U_a S_a^-1).
#include "lmhead/diagnose/gradient_energies.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>

#include "lmhead/base/device.h"
#include "lmhead/diagnose/logit_gradient.h"

namespace lmhead {
namespace {

/// G G^T in float64; both triangles.
at::Tensor gram_of(const LogitGradient& gradient, std::int64_t tokens, std::int64_t vocab_size,
                   const at::TensorOptions& options) {
  constexpr std::int64_t kRows = 512;
  at::Tensor gram = at::zeros({tokens, tokens}, options.dtype(at::kDouble));
  const std::int64_t step = gradient.tile_columns();
  for (std::int64_t first = 0; first < vocab_size; first += step) {
    const at::Tensor tile = gradient.tile(first, std::min(step, vocab_size - first));
    for (std::int64_t row = 0; row < tokens; row += kRows) {  // the lower triangle is enough
      const std::int64_t rows = std::min(kRows, tokens - row), columns = row + rows;
      gram.narrow(0, row, rows).narrow(1, 0, columns) +=
          at::matmul(tile.narrow(0, row, rows), tile.narrow(0, 0, columns).t());
    }
  }
  for (std::int64_t row = 0; row < tokens; row += kRows) {
    const std::int64_t rows = std::min(kRows, tokens - row);
    gram.narrow(0, 0, row).narrow(1, row, rows).copy_(gram.narrow(0, row, rows).narrow(1, 0, row).t());
  }
  return gram;
}

/// Energy of the tokens `other` in the best `dimension` directions of the tokens `own`, and how many these
/// really are.
struct CrossEnergy {
  double energy;
  std::int64_t dimension;
};
CrossEnergy cross_energy(const at::Tensor& gram, const at::Tensor& own, const at::Tensor& other, std::int64_t dimension,
                         double cutoff) {
  const at::Tensor own_rows = gram.index_select(0, own);
  const auto [values, vectors] = at::linalg_eigh(own_rows.index_select(1, own));
  const double largest = values[-1].item<double>();
  // Below the cut-off a direction is rounding, and division by its eigenvalue would make energy of it.
  const std::int64_t real = values.gt(cutoff * largest).sum().item<std::int64_t>();
  const std::int64_t kept = std::min(dimension, real), start = values.size(0) - kept;
  const at::Tensor images = at::matmul(own_rows.index_select(1, other).t(), vectors.narrow(1, start, kept));
  return {(images.square().sum(0) / values.narrow(0, start, kept)).sum().item<double>(), kept};
}

/// 0 or 1 for every token: documents take turns where they are known, else the first half against the second.
at::Tensor halves(const at::Tensor& documents, std::int64_t tokens) {
  std::vector<std::int64_t> side(tokens);
  if (documents.defined()) {
    std::map<std::int64_t, std::int64_t> order;
    const at::Tensor ids = documents.cpu().contiguous();
    const auto* id = ids.const_data_ptr<std::int64_t>();
    for (std::int64_t token = 0; token < tokens; ++token)
      side[token] = order.try_emplace(id[token], std::int64_t(order.size())).first->second % 2;
    if (order.size() > 1) return at::tensor(side);
  }
  for (std::int64_t token = 0; token < tokens; ++token) side[token] = token >= (tokens + 1) / 2;
  return at::tensor(side);
}

}  // namespace

GradientEnergies exact_gradient_energies(const LinearMap& map, const TokenSample& sample, std::int64_t dimension) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = sample.hidden();
  const LogitGradient gradient(map, hidden, sample.targets());
  const at::Tensor gram = gram_of(gradient, sample.size(), map.weight.size(0), hidden.options());
  const at::Tensor eigenvalues = at::linalg_eigvalsh(gram).clamp_min(0).flip(0).cpu().contiguous();
  const double* energy = eigenvalues.const_data_ptr<double>();
  GradientEnergies found{.energies = {energy, energy + eigenvalues.size(0)}, .total = gram.trace().item<double>()};

  const at::Tensor side = on_device(halves(sample.documents(), sample.size()), gram.device());
  const at::Tensor first = side.eq(0).nonzero().squeeze(1), second = side.eq(1).nonzero().squeeze(1);
  const auto moves = [&](const at::Tensor& half) {
    return half.size(0) > 0 && gram.diagonal().index_select(0, half).sum().item<double>() > 0;
  };
  if (!moves(first) || !moves(second)) return found;
  const double cutoff = map.weight.scalar_type() == at::kDouble ? 1e-12 : 1e-6;
  const CrossEnergy forward = cross_energy(gram, first, second, dimension, cutoff);
  const CrossEnergy backward = cross_energy(gram, second, first, dimension, cutoff);
  found.cross_energy = forward.energy + backward.energy;
  found.cross_dimension = std::min(forward.dimension, backward.dimension);
  return found;
}

}  // namespace lmhead
