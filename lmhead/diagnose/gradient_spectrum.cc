// The singular values of the logit gradient G over N tokens, and the best output space that any head could
// have for it: exact for some thousand tokens; beyond, every figure is a lower and an upper bound.
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/energy_curve.h"
#include "lmhead/diagnose/gradient_energies.h"
#include "lmhead/diagnose/gradient_sketch.h"
#include "lmhead/diagnose/kinds.h"
#include "lmhead/diagnose/token_sample.h"

namespace lmhead {

void GradientSpectrumOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("tokens", tokens, "the first so many tokens are taken", at_least(2));
  visitor.field(
      "exact_tokens", exact_tokens,
      "up to so many tokens the spectrum is exact, in 16 tokens^2 bytes; more are seen through a random sketch",
      between(1, 32768));
  visitor.field("sketch_gib", sketch_gib, "memory of that sketch, in GiB; it decides its columns", above(0));
  visitor.field("sketch_columns", sketch_columns,
                "columns of the sketch; null: as many as its memory holds, to a limit", at_least(1));
}

namespace {

constexpr const char* kWho = "gradient_spectrum";

/// As many columns as the memory holds for two halves, and no more than serve: the spaces that are asked for have 2 D
/// dimensions, and a sketch finds the last of its directions badly.
std::int64_t sketch_columns(const GradientSpectrumOptions& options, const LinearMap& map) {
  if (options.sketch_columns) return *options.sketch_columns;
  const double bytes_a_column = 2.0 * double(map.weight.size(0)) * (map.weight.scalar_type() == at::kDouble ? 8 : 4);
  const double fitting = options.sketch_gib * double(1 << 30) / bytes_a_column;
  const std::int64_t most = std::clamp<std::int64_t>(3 * map.weight.size(1), 2048, 8192);
  return std::max<std::int64_t>(std::int64_t(std::min(fitting, double(most))), 1);
}

Json pair_of(double low, double high) { return {number_or_null(low), number_or_null(high)}; }

/// What the curve says, under the keys of the glossary; where it is not exact, `bounds` beside.
Json figures_of(const EnergyCurve& curve, std::int64_t hidden_size, double retained) {
  Json of_norm, of_energy, norm_bounds, energy_bounds;
  const bool is_exact = curve.unresolved() == 0, has_energy = !std::isnan(curve.unresolved());
  for (const auto& [name, share] :
       {std::pair{"0.5", 0.5}, {"0.7", 0.7}, {"0.9", 0.9}, {"0.99", 0.99}, {"0.999", 0.999}}) {
    const Interval<std::int64_t> norm = curve.components(share * share), energy = curve.components(share);
    of_norm[name] = has_energy ? Json(norm.high) : Json(nullptr);
    of_energy[name] = has_energy ? Json(energy.high) : Json(nullptr);
    norm_bounds[name] = {norm.low, norm.high};
    energy_bounds[name] = {energy.low, energy.high};
  }
  const Interval<double> best = curve.best(hidden_size), twice = curve.best(2 * hidden_size);
  Json figures = {{"components_for_norm", of_norm},
                  {"components_for_energy", of_energy},
                  {"best_retained_energy", number_or_null(best.low)},
                  {"residual_energy_rank_d", number_or_null(1 - best.low)},
                  {"residual_energy_rank_2d", number_or_null(1 - twice.low)},
                  {"retained_energy", number_or_null(retained)},
                  {"avoidable_energy", number_or_null(best.low - retained)}};
  if (is_exact || !has_energy) return figures;
  figures["bounds"] = {{"components_for_norm", norm_bounds},
                       {"components_for_energy", energy_bounds},
                       {"best_retained_energy", pair_of(best.low, best.high)},
                       {"residual_energy_rank_d", pair_of(1 - best.high, 1 - best.low)},
                       {"residual_energy_rank_2d", pair_of(1 - twice.high, 1 - twice.low)},
                       {"avoidable_energy", pair_of(best.low - retained, best.high - retained)}};
  return figures;
}

/// B(k) for a plot, at about log-spaced k; its upper bound too where it is not exact.
Json cumulative_of(const EnergyCurve& curve) {
  Json json = {{"components", Json::array()}, {"energy", Json::array()}};
  for (std::int64_t rank = 1; rank <= curve.rank(); rank = std::max(rank + 1, rank * 10 / 9)) {
    const Interval<double> best = curve.best(rank);
    json["components"].push_back(rank);
    json["energy"].push_back(number_or_null(best.low));
    if (curve.unresolved() > 0) json["energy_upper_bound"].push_back(number_or_null(best.high));
  }
  return json;
}

/// What is cross-validated: null where there is nothing to tell.
void add_cross_validation(const GradientEnergies& found, double retained, Json& result) {
  const double best = found.cross_energy / found.total;
  const bool possible = found.cross_dimension > 0 && std::isfinite(best);
  result["cross_validated_dimension"] = possible ? Json(found.cross_dimension) : Json(nullptr);
  result["cross_validated_best_retained_energy"] = possible ? Json(best) : Json(nullptr);
  result["cross_validated_avoidable_energy"] = possible ? Json(best - retained) : Json(nullptr);
  if (!possible || !result.contains("bounds")) return;
  const double most = std::min(best + found.cross_unresolved / found.total, 1.0);
  result["bounds"]["cross_validated_best_retained_energy"] = pair_of(best, most);
  result["bounds"]["cross_validated_avoidable_energy"] = pair_of(best - retained, most - retained);
}

/// exp of the entropy of the singular values' shares; null where there are none.
Json effective_rank(const std::vector<double>& energies) {
  double roots = 0, entropy = 0;
  for (const double energy : energies) roots += std::sqrt(energy);
  for (const double energy : energies) {
    const double share = std::sqrt(energy) / roots;
    if (share > 0) entropy -= share * std::log(share);
  }
  return roots > 0 ? Json(std::exp(entropy)) : Json(nullptr);
}

class GradientSpectrum : public Diagnostic {
 public:
  explicit GradientSpectrum(const DiagnosticContext& context)
      : map_(context.map),
        options_(context.options.gradient_spectrum),
        sample_(std::min(options_.tokens, options_.exact_tokens)) {}

  void update(const TokenBatch& batch, const TokenEnergies& energies) override;
  Json result() const override;
  void reset() override {
    sample_.reset();
    sketch_.reset();
    tokens_ = 0;
    total_ = retained_ = 0;
  }

 private:
  LinearMap map_;
  GradientSpectrumOptions options_;
  TokenSample sample_;  // until there are too many, and nothing after that
  std::optional<GradientSketch> sketch_;
  std::int64_t tokens_ = 0;
  double total_ = 0, retained_ = 0;
};

void GradientSpectrum::update(const TokenBatch& batch, const TokenEnergies& energies) {
  const std::int64_t rows = std::min(options_.tokens - tokens_, batch.targets.size(0));
  if (rows == 0) return;
  tokens_ += rows;
  const at::Tensor total = energies.total.narrow(0, 0, rows);
  total_ += total.sum().item<double>();
  retained_ += energies.retained.narrow(0, 0, rows).sum().item<double>();
  if (!sketch_ && tokens_ <= options_.exact_tokens) return sample_.add(batch, energies);
  if (!sketch_) {
    sketch_.emplace(map_, sketch_columns(options_, map_));
    if (sample_.size() > 0) sketch_->add(sample_.hidden(), sample_.targets(), sample_.totals(), sample_.documents());
    sample_.reset();
  }
  const at::Tensor documents = batch.documents.defined() ? batch.documents.narrow(0, 0, rows) : at::Tensor();
  sketch_->add(batch.hidden.narrow(0, 0, rows), batch.targets.narrow(0, 0, rows), total, documents);
}

Json GradientSpectrum::result() const {
  require(tokens_ > 0, kWho, "at least one token with a target must have been seen, got none");
  const std::int64_t hidden_size = map_.weight.size(1), vocab_size = map_.weight.size(0);
  const GradientEnergies found =
      sketch_ ? sketch_->result(hidden_size) : exact_gradient_energies(map_, sample_, hidden_size);
  // Rows of G sum to zero, unless a soft-cap or another map bends the logits.
  const std::int64_t rank = std::min(tokens_, bends_logits(map_.transform) ? vocab_size : vocab_size - 1);
  // Eigenvalues that are all there are leave nothing open but rounding, which is no part of the total.
  const EnergyCurve curve = sketch_ ? EnergyCurve(found.energies, found.total, rank)
                                    : EnergyCurve(found.energies, 0, std::int64_t(found.energies.size()));
  const double retained = retained_ / total_;
  Json result = {{"tokens", tokens_}, {"method", sketch_ ? "randomized" : "exact"}};
  if (sketch_) {
    result["sketch_columns"] = sketch_->columns();
    result["unresolved_energy"] = number_or_null(curve.unresolved());
  }
  result.update(figures_of(curve, hidden_size, retained));
  // The many small values that decide it are not seen by a sketch.
  result["effective_rank"] = sketch_ ? Json(nullptr) : effective_rank(found.energies);
  add_cross_validation(found, retained, result);
  result["cumulative"] = cumulative_of(curve);
  return result;
}

}  // namespace

std::unique_ptr<Diagnostic> make_gradient_spectrum(const DiagnosticContext& context) {
  return std::make_unique<GradientSpectrum>(context);
}

}  // namespace lmhead
