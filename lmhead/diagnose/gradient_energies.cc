// Energies of one half of the tokens in the best space of the other need no more than G G^T: they are entries of it
// (G_b V_a = G_b G_a^T U_a S_a^-1). From the other side they are V_a^T (G_b^T G_b) V_a.
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
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

constexpr std::int64_t kRows = 512;

/// G G^T in float64; both triangles.
at::Tensor gram_of(const LogitGradient& gradient, std::int64_t tokens, std::int64_t vocab_size,
                   const at::TensorOptions& options) {
  at::Tensor gram = at::zeros({tokens, tokens}, options.dtype(at::kDouble));
  const std::int64_t step = gradient.tile_columns();
  for (std::int64_t first = 0; first < vocab_size; first += step) {
    const at::Tensor tile = gradient.tile(first, std::min(step, vocab_size - first));
    for (std::int64_t row = 0; row < tokens; row += kRows) {  // the lower triangle is enough
      const std::int64_t rows = std::min(kRows, tokens - row), columns = row + rows;
      gram.narrow(0, row, rows).narrow(1, 0, columns) +=
          matrix_product(tile.narrow(0, row, rows), tile.narrow(0, 0, columns).t());
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

/// The directions that are real: below the cut-off one is rounding, and division by its eigenvalue would make energy.
struct BestSpace {
  at::Tensor values, vectors;  // ascending
};
BestSpace best_space(const at::Tensor& gram, std::int64_t dimension, double cutoff) {
  const auto [values, vectors] = at::linalg_eigh(gram);
  const double largest = values[-1].item<double>();
  const std::int64_t kept = std::min(dimension, values.gt(cutoff * largest).sum().item<std::int64_t>()),
                     start = values.size(0) - kept;
  return {values.narrow(0, start, kept), vectors.narrow(1, start, kept)};
}

CrossEnergy cross_energy(const at::Tensor& gram, const at::Tensor& own, const at::Tensor& other, std::int64_t dimension,
                         double cutoff) {
  const at::Tensor own_rows = gram.index_select(0, own);
  const BestSpace space = best_space(own_rows.index_select(1, own), dimension, cutoff);
  const at::Tensor images = at::matmul(own_rows.index_select(1, other).t(), space.vectors);
  return {(images.square().sum(0) / space.values).sum().item<double>(), space.values.size(0)};
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

/// Descending; of a Gram matrix.
std::vector<double> energies_of(const at::Tensor& gram) {
  const at::Tensor eigenvalues = at::linalg_eigvalsh(gram).clamp_min(0).flip(0).cpu().contiguous();
  const double* energy = eigenvalues.const_data_ptr<double>();
  return {energy, energy + eigenvalues.size(0)};
}

void set_cross_energies(GradientEnergies& found, const CrossEnergy& forward, const CrossEnergy& backward) {
  found.cross_energy = forward.energy + backward.energy;
  found.cross_dimension = std::min(forward.dimension, backward.dimension);
}

GradientEnergies energies_by_tokens(const LinearMap& map, const TokenSample& sample, const at::Tensor& side,
                                    std::int64_t dimension, double cutoff) {
  const at::Tensor hidden = sample.hidden();
  const LogitGradient gradient(map, hidden, sample.targets());
  const at::Tensor gram = gram_of(gradient, sample.size(), map.weight.size(0), hidden.options());
  GradientEnergies found{.energies = energies_of(gram), .total = gram.trace().item<double>()};
  const at::Tensor first = side.eq(0).nonzero().squeeze(1), second = side.eq(1).nonzero().squeeze(1);
  const auto moves = [&](const at::Tensor& half) {
    return half.size(0) > 0 && gram.diagonal().index_select(0, half).sum().item<double>() > 0;
  };
  if (moves(first) && moves(second))
    set_cross_energies(found, cross_energy(gram, first, second, dimension, cutoff),
                       cross_energy(gram, second, first, dimension, cutoff));
  return found;
}

GradientEnergies energies_by_words(const LinearMap& map, const TokenSample& sample, const at::Tensor& side,
                                   std::int64_t dimension, double cutoff) {
  const std::int64_t vocab_size = map.weight.size(0);
  const at::Tensor hidden = sample.hidden(), targets = sample.targets();
  at::Tensor grams[2];
  for (at::Tensor& gram : grams) gram = at::zeros({vocab_size, vocab_size}, hidden.options().dtype(at::kDouble));
  for (std::int64_t begin = 0; begin < sample.size(); begin += kRows) {
    const std::int64_t rows = std::min(kRows, sample.size() - begin);
    const LogitGradient gradient(map, hidden.narrow(0, begin, rows), targets.narrow(0, begin, rows));
    const at::Tensor tile = gradient.tile(0, vocab_size), sides = side.narrow(0, begin, rows);
    for (int half = 0; half < 2; ++half) {
      const at::Tensor own = tile.index_select(0, sides.eq(half).nonzero().squeeze(1));
      grams[half] += matrix_product(own.t(), own);
    }
  }
  const at::Tensor gram = grams[0] + grams[1];
  GradientEnergies found{.energies = energies_of(gram), .total = gram.trace().item<double>()};
  const auto cross = [&](int own) -> CrossEnergy {
    const BestSpace space = best_space(grams[own], dimension, cutoff);
    return {(at::matmul(grams[1 - own], space.vectors) * space.vectors).sum().item<double>(), space.values.size(0)};
  };
  if (grams[0].trace().item<double>() > 0 && grams[1].trace().item<double>() > 0)
    set_cross_energies(found, cross(0), cross(1));
  return found;
}

}  // namespace

GradientEnergies exact_gradient_energies(const LinearMap& map, const TokenSample& sample, std::int64_t dimension) {
  at::NoGradGuard no_grad;
  const at::Tensor side = on_device(halves(sample.documents(), sample.size()), map.weight.device());
  const double cutoff = map.weight.scalar_type() == at::kDouble ? 1e-12 : 1e-6;
  return map.weight.size(0) < sample.size() ? energies_by_words(map, sample, side, dimension, cutoff)
                                            : energies_by_tokens(map, sample, side, dimension, cutoff);
}

}  // namespace lmhead
