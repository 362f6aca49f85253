// The singular values of the logit gradient G over N tokens, and the best output space that any head could
// have for it.
//
// They are the roots of the eigenvalues of G G^T [N, N], which is accumulated over tiles of the vocabulary; G
// itself never exists. Energies of one half of the tokens in the best space of the other need no more: they
// are entries of the same matrix (G_b V_a = G_b G_a^T U_a S_a^-1).
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/kinds.h"
#include "lmhead/diagnose/logit_gradient.h"
#include "lmhead/diagnose/token_sample.h"

namespace lmhead {

void GradientSpectrumOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("tokens", tokens, "the first so many tokens are taken; memory 16 tokens^2 bytes",
                between(2, 32768));
}

namespace {

constexpr const char* kWho = "gradient_spectrum";

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
CrossEnergy cross_energy(const at::Tensor& gram, const at::Tensor& own, const at::Tensor& other,
                         std::int64_t dimension, double cutoff) {
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
    const at::Tensor ids = documents.contiguous();
    const auto* id = ids.const_data_ptr<std::int64_t>();
    for (std::int64_t token = 0; token < tokens; ++token)
      side[token] = order.try_emplace(id[token], std::int64_t(order.size())).first->second % 2;
    if (order.size() > 1) return at::tensor(side);
  }
  for (std::int64_t token = 0; token < tokens; ++token) side[token] = token >= (tokens + 1) / 2;
  return at::tensor(side);
}

class GradientSpectrum : public Diagnostic {
 public:
  explicit GradientSpectrum(const DiagnosticContext& context)
      : map_(context.map), sample_(context.options.gradient_spectrum.tokens) {}

  void update(const TokenBatch& batch, const TokenEnergies& energies) override {
    sample_.add(batch, energies);
  }
  Json result() const override;
  void reset() override { sample_.reset(); }

 private:
  void add_cross_validation(const at::Tensor& gram, double retained, Json& result) const;

  LinearMap map_;
  TokenSample sample_;
};

Json GradientSpectrum::result() const {
  at::NoGradGuard no_grad;
  const std::int64_t tokens = sample_.size(), hidden_size = map_.weight.size(1);
  require(tokens > 0, kWho, "at least one token with a target must have been seen, got none");
  const at::Tensor hidden = sample_.hidden();
  const LogitGradient gradient(map_, hidden, sample_.targets());
  const at::Tensor gram = gram_of(gradient, tokens, map_.weight.size(0), hidden.options());

  const at::Tensor energies = at::linalg_eigvalsh(gram).clamp_min(0).flip(0).contiguous();
  const double* energy = energies.const_data_ptr<double>();
  std::vector<double> cumulative(tokens);
  double sum = 0;
  for (std::int64_t index = 0; index < tokens; ++index) cumulative[index] = sum += energy[index];
  const auto best = [&](std::int64_t rank) {
    return rank >= tokens ? sum / sum : cumulative[rank - 1] / sum;
  };
  const auto components = [&](double share) {
    const auto found = std::lower_bound(cumulative.begin(), cumulative.end(), share * sum);
    return std::min<std::int64_t>(found - cumulative.begin() + 1, tokens);
  };
  double roots = 0, entropy = 0;
  for (std::int64_t index = 0; index < tokens; ++index) roots += std::sqrt(energy[index]);
  for (std::int64_t index = 0; index < tokens; ++index) {
    const double share = std::sqrt(energy[index]) / roots;
    if (share > 0) entropy -= share * std::log(share);
  }

  const double retained = sample_.retained() / sample_.total();
  Json of_norm, of_energy, curve = {{"components", Json::array()}, {"energy", Json::array()}};
  for (const auto& [name, share] :
       {std::pair{"0.5", 0.5}, {"0.7", 0.7}, {"0.9", 0.9}, {"0.99", 0.99}, {"0.999", 0.999}}) {
    of_norm[name] = sum > 0 ? Json(components(share * share)) : Json(nullptr);
    of_energy[name] = sum > 0 ? Json(components(share)) : Json(nullptr);
  }
  for (std::int64_t rank = 1; rank <= tokens; rank = std::max(rank + 1, rank * 10 / 9)) {
    curve["components"].push_back(rank);
    curve["energy"].push_back(number_or_null(best(rank)));
  }
  Json result = {{"tokens", tokens},
                 {"components_for_norm", of_norm},
                 {"components_for_energy", of_energy},
                 {"effective_rank", sum > 0 ? Json(std::exp(entropy)) : Json(nullptr)},
                 {"best_retained_energy", number_or_null(best(hidden_size))},
                 {"residual_energy_rank_d", number_or_null(1 - best(hidden_size))},
                 {"residual_energy_rank_2d", number_or_null(1 - best(2 * hidden_size))},
                 {"retained_energy", number_or_null(retained)},
                 {"avoidable_energy", number_or_null(best(hidden_size) - retained)}};
  add_cross_validation(gram, retained, result);
  result["cumulative"] = curve;
  return result;
}

void GradientSpectrum::add_cross_validation(const at::Tensor& gram, double retained, Json& result) const {
  const at::Tensor side = halves(sample_.documents(), sample_.size());
  const at::Tensor first = side.eq(0).nonzero().squeeze(1), second = side.eq(1).nonzero().squeeze(1);
  const double cutoff = map_.weight.scalar_type() == at::kDouble ? 1e-12 : 1e-6;
  const double energy = gram.trace().item<double>();
  const bool possible = first.size(0) > 0 && second.size(0) > 0 &&
                        gram.diagonal().index_select(0, first).sum().item<double>() > 0 &&
                        gram.diagonal().index_select(0, second).sum().item<double>() > 0;
  for (const char* key : {"cross_validated_dimension", "cross_validated_best_retained_energy",
                          "cross_validated_avoidable_energy"})
    result[key] = nullptr;
  if (!possible) return;
  const std::int64_t hidden_size = map_.weight.size(1);
  const CrossEnergy forward = cross_energy(gram, first, second, hidden_size, cutoff);
  const CrossEnergy backward = cross_energy(gram, second, first, hidden_size, cutoff);
  const double best = (forward.energy + backward.energy) / energy;
  result["cross_validated_dimension"] = std::min(forward.dimension, backward.dimension);
  result["cross_validated_best_retained_energy"] = best;
  result["cross_validated_avoidable_energy"] = best - retained;
}

}  // namespace

std::unique_ptr<Diagnostic> make_gradient_spectrum(const DiagnosticContext& context) {
  return std::make_unique<GradientSpectrum>(context);
}

}  // namespace lmhead
