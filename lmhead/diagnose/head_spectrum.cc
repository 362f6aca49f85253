// The head itself: singular values, rank, condition, the share of its mean row, and row norms against token
// frequency.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "lmhead/data/frequency_bands.h"
#include "lmhead/diagnose/kinds.h"

namespace lmhead {
namespace {

class HeadSpectrum : public Diagnostic {
 public:
  explicit HeadSpectrum(const DiagnosticContext& context)
      : weight_(context.map.weight.detach()),
        head_space_(context.head_space),
        given_(context.token_counts),
        counted_(at::zeros({head_space_->vocab_size()}, weight_.options().dtype(at::kLong))) {}

  void update(const TokenBatch& batch, const TokenEnergies&) override { count_targets(batch.targets, counted_); }
  Json result() const override;
  void reset() override { counted_.zero_(); }

 private:
  Json norms_by_frequency(const at::Tensor& norms, const at::Tensor& counts) const;

  at::Tensor weight_;
  std::shared_ptr<const HeadSpace> head_space_;
  at::Tensor given_, counted_;
};

/// Pearson's correlation; NaN where either does not vary.
double correlation(const at::Tensor& first, const at::Tensor& second) {
  if (first.size(0) < 2) return std::numeric_limits<double>::quiet_NaN();
  const at::Tensor a = first - first.mean(), b = second - second.mean();
  return ((a * b).sum() / (a.norm() * b.norm())).item<double>();
}

Json HeadSpectrum::norms_by_frequency(const at::Tensor& norms, const at::Tensor& counts) const {
  const FrequencyBands bands = frequency_bands(counts);
  Json list = Json::array();
  for (std::size_t band = 0; band < bands.names.size(); ++band) {
    const at::Tensor inside = norms.index_select(0, bands.band.eq(std::int64_t(band)).nonzero().squeeze(1));
    if (inside.size(0) == 0) continue;
    list.push_back({{"group", bands.names[band]},
                    {"vocabulary", inside.size(0)},
                    {"mean_norm", inside.mean().item<double>()},
                    {"smallest_norm", inside.min().item<double>()},
                    {"largest_norm", inside.max().item<double>()}});
  }
  return list;
}

Json HeadSpectrum::result() const {
  at::NoGradGuard no_grad;
  const at::Tensor values = head_space_->singular_values().cpu().contiguous();
  const double sum = values.sum().item<double>();
  const at::Tensor shares = values / sum;
  const double entropy = sum > 0 ? -(shares * shares.clamp_min(1e-300).log()).sum().item<double>() : -INFINITY;

  const at::Tensor norms = row_norms(weight_).cpu();
  const double frobenius = norms.square().sum().item<double>();
  const double mean_square = mean_row(weight_).square().sum().item<double>();
  const at::Tensor counts = (given_.defined() ? given_ : counted_).cpu();
  const at::Tensor seen = counts.gt(0).nonzero().squeeze(1);
  const double related = correlation(norms.index_select(0, seen), counts.index_select(0, seen).to(at::kDouble).log());
  Json result = {{"head_rank", head_space_->rank()},
                 {"head_condition", head_space_->condition()},
                 {"effective_rank", std::exp(entropy)},
                 {"mean_row_share", number_or_null(double(weight_.size(0)) * mean_square / frobenius)},
                 {"norm_log_count_correlation", number_or_null(related)},
                 {"norm_by_frequency", norms_by_frequency(norms, counts)}};
  result["singular_values"] =
      std::vector<double>(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.size(0));
  return result;
}

}  // namespace

std::unique_ptr<Diagnostic> make_head_spectrum(const DiagnosticContext& context) {
  return std::make_unique<HeadSpectrum>(context);
}

}  // namespace lmhead
