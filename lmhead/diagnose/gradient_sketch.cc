#include "lmhead/diagnose/gradient_sketch.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "lmhead/base/device.h"
#include "lmhead/base/random.h"
#include "lmhead/diagnose/logit_gradient.h"

namespace lmhead {
namespace {

constexpr std::int64_t kRows = 1024, kColumns = 2048;  // of a tile of G: 8 MB of float32
constexpr std::int64_t kRunTokens = 4096;              // of one document that stay in one half

/// Calls use(first, count) for tiles of the vocabulary.
template <class Use>
void for_each_tile(std::int64_t vocab_size, const Use& use) {
  for (std::int64_t first = 0; first < vocab_size; first += kColumns)
    use(first, std::min(kColumns, vocab_size - first));
}

/// A' = F F^T with F = S T, and the eigenvalues of A' with its eigenvectors U = S C.
struct Factor {
  at::Tensor transform;  // T, [s, r]
  at::Tensor vectors;    // C, [s, r'], of the largest eigenvalue first
  at::Tensor energies;   // [r']
};

/// From `core` = Omega^T S and `gram` = S^T S. Directions of the core below `cutoff` are rounding; leaving some out
/// leaves a Nystrom approximation.
Factor factor_of(const at::Tensor& core, const at::Tensor& gram, double cutoff) {
  const auto [values, vectors] = at::linalg_eigh((core + core.t()) / 2);
  const double largest = values[-1].item<double>();
  const std::int64_t kept = largest > 0 ? values.gt(cutoff * largest).sum().item<std::int64_t>() : 0;
  const std::int64_t start = values.size(0) - kept;
  Factor factor;
  factor.transform = vectors.narrow(1, start, kept) / values.narrow(0, start, kept).sqrt();
  const auto [energies, inner] = at::linalg_eigh(at::matmul(at::matmul(factor.transform.t(), gram), factor.transform));
  const std::int64_t real = kept > 0 ? energies.gt(cutoff * energies[-1].item<double>()).sum().item<std::int64_t>() : 0;
  factor.energies = energies.narrow(0, kept - real, real).flip(0).contiguous();
  factor.vectors = at::matmul(factor.transform, inner.narrow(1, kept - real, real).flip(1)) / factor.energies.sqrt();
  return factor;
}

}  // namespace

GradientSketch::GradientSketch(const LinearMap& map, std::int64_t columns)
    : map_(map),
      columns_(std::min(columns, map.weight.size(0))),
      type_(map.weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat) {
  for (at::Tensor& sketch : sketch_) sketch = at::zeros({map.weight.size(0), columns_}, options());
}

at::Tensor GradientSketch::signs(std::int64_t first, std::int64_t count) const {
  const at::Tensor tile = at::empty({count, columns_}, at::kFloat);
  float* value = tile.mutable_data_ptr<float>();
  for (std::int64_t row = 0; row < count; ++row) {
    RandomStream stream(0, "gradient_spectrum", std::uint64_t(first + row));
    std::uint64_t bits = 0;
    for (std::int64_t column = 0; column < columns_; ++column, bits >>= 1) {
      if (column % 64 == 0) bits = stream.next_u64();
      *value++ = bits & 1 ? 1.0f : -1.0f;
    }
  }
  return on_device(tile.to(type_), map_.weight.device());
}

/// 0 or 1 for every token: documents take turns, and so do the runs that a long one is cut into.
at::Tensor GradientSketch::halves(const at::Tensor& documents, std::int64_t tokens) {
  at::Tensor side = at::zeros({tokens}, at::kLong);
  const at::Tensor ids = documents.defined() ? documents.cpu().contiguous() : side.clone();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  auto* to = side.mutable_data_ptr<std::int64_t>();
  for (std::int64_t token = 0; token < tokens; ++token) {
    Document& document = documents_.try_emplace(id[token], Document{std::int64_t(documents_.size()), 0}).first->second;
    to[token] = (document.order + document.tokens++ / kRunTokens) % 2;
  }
  return side;
}

void GradientSketch::add(const at::Tensor& hidden, const at::Tensor& targets, const at::Tensor& energies,
                         const at::Tensor& documents) {
  at::NoGradGuard no_grad;
  const at::Tensor side = on_device(halves(documents, targets.size(0)), targets.device());
  for (std::int64_t half = 0; half < 2; ++half) {
    const at::Tensor rows = side.eq(half).nonzero().squeeze(1);
    total_[half] += energies.index_select(0, rows).sum().item<double>();
    for (std::int64_t row = 0; row < rows.size(0); row += kRows) {
      const at::Tensor block = rows.narrow(0, row, std::min(kRows, rows.size(0) - row));
      add_half(std::size_t(half), hidden.index_select(0, block), targets.index_select(0, block));
    }
  }
}

void GradientSketch::add_half(std::size_t half, const at::Tensor& hidden, const at::Tensor& targets) {
  const std::int64_t vocab_size = map_.weight.size(0);
  const LogitGradient gradient(map_, hidden, targets);
  at::Tensor product = at::zeros({targets.size(0), columns_}, options());  // G Omega of these tokens
  for_each_tile(vocab_size, [&](std::int64_t first, std::int64_t count) {
    product.addmm_(gradient.tile(first, count), signs(first, count));
  });
  for_each_tile(vocab_size, [&](std::int64_t first, std::int64_t count) {
    sketch_[half].narrow(0, first, count).addmm_(gradient.tile(first, count).t(), product);
  });
}

GradientEnergies GradientSketch::result(std::int64_t dimension) const {
  at::NoGradGuard no_grad;
  const at::Tensor zero = at::zeros({columns_, columns_}, options().dtype(at::kDouble));
  std::array<at::Tensor, 2> core = {zero.clone(), zero.clone()}, gram = {zero.clone(), zero.clone()};
  at::Tensor between = zero.clone();  // S_0^T S_1
  for_each_tile(map_.weight.size(0), [&](std::int64_t first, std::int64_t count) {
    const at::Tensor omega = signs(first, count).to(at::kDouble);
    std::array<at::Tensor, 2> tile;
    for (std::size_t half = 0; half < 2; ++half) {
      tile[half] = sketch_[half].narrow(0, first, count).to(at::kDouble);
      core[half].addmm_(omega.t(), tile[half]);
      gram[half].addmm_(tile[half].t(), tile[half]);
    }
    between.addmm_(tile[0].t(), tile[1]);
  });
  const double cutoff = type_ == at::kDouble ? 1e-12 : 1e-6;
  GradientEnergies result{.total = total_[0] + total_[1]};
  const Factor whole = factor_of(core[0] + core[1], gram[0] + gram[1] + between + between.t(), cutoff);
  const at::Tensor energies = whole.energies.cpu();
  const double* energy = energies.const_data_ptr<double>();
  result.energies.assign(energy, energy + energies.size(0));

  std::array<Factor, 2> factors;
  for (std::size_t half = 0; half < 2; ++half) {
    factors[half] = factor_of(core[half], gram[half], cutoff);
    result.cross_unresolved += std::max(total_[half] - factors[half].energies.sum().item<double>(), 0.0);
  }
  result.cross_dimension = std::min({dimension, factors[0].energies.size(0), factors[1].energies.size(0)});
  for (std::size_t half = 0; half < 2; ++half) {
    // Energy of the other half in this one's space: ||F_other^T U||^2 = ||T_other^T S_other^T S C||^2.
    const at::Tensor cross = half == 0 ? between.t() : between;
    const std::int64_t kept = std::min(dimension, factors[half].energies.size(0));
    result.cross_energy +=
        at::matmul(at::matmul(factors[1 - half].transform.t(), cross), factors[half].vectors.narrow(1, 0, kept))
            .square()
            .sum()
            .item<double>();
  }
  return result;
}

}  // namespace lmhead
