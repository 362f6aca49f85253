// Where the logit gradient is lost: its distribution over tokens, by the target's frequency, by position, by
// the probability that the target was given; and how certain the totals are, with documents as the
// independent units.
#include <ATen/TensorOperators.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/data/frequency_bands.h"
#include "lmhead/diagnose/kinds.h"
#include "lmhead/diagnose/token_groups.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "token_breakdown";
constexpr std::int64_t kBins = 1 << 14;       // of retained energy a token: quantiles are exact to 1 / kBins
constexpr std::int64_t kPositionGroups = 64;  // powers of two
const std::vector<double> kProbabilityEdges = {1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9};
const std::vector<std::string> kProbabilityNames = {"p < 0.0001",      "0.0001 <= p < 0.001", "0.001 <= p < 0.01",
                                                    "0.01 <= p < 0.1", "0.1 <= p < 0.5",      "0.5 <= p < 0.9",
                                                    "0.9 <= p"};
constexpr std::array<double, 9> kQuantiles = {0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99};
constexpr std::array<const char*, 9> kQuantileNames = {"0.01", "0.05", "0.1",  "0.25", "0.5",
                                                       "0.75", "0.9",  "0.95", "0.99"};

/// 0 for position 0, else 1 + floor(log2(position)).
at::Tensor position_group(const at::Tensor& positions) {
  return std::get<1>(at::frexp(positions.to(at::kDouble))).to(at::kLong);
}

std::vector<std::string> position_names() {
  std::vector<std::string> names = {"0", "1"};
  for (std::int64_t group = 2; group < kPositionGroups; ++group)
    names.push_back(std::to_string(std::int64_t(1) << (group - 1)) + "-" +
                    std::to_string(((std::int64_t(1) << (group - 1)) - 1) * 2 + 1));
  return names;
}

struct DocumentSums {
  double tokens = 0, total = 0, retained = 0, loss = 0;
};

/// Standard error of sum(numerator) / sum(denominator) over independent units, to first order.
double ratio_error(const std::map<std::int64_t, DocumentSums>& documents, double DocumentSums::* numerator,
                   double DocumentSums::* denominator) {
  double above = 0, below = 0, squares = 0;
  for (const auto& [id, sums] : documents) above += sums.*numerator, below += sums.*denominator;
  for (const auto& [id, sums] : documents) squares += std::pow(sums.*numerator - above / below * sums.*denominator, 2);
  const double count = double(documents.size());
  return std::sqrt(squares * count / (count - 1)) / below;  // NaN for fewer than two
}

class TokenBreakdown : public Diagnostic {
 public:
  explicit TokenBreakdown(const DiagnosticContext& context)
      : token_counts_(context.token_counts),
        targets_(context.vocab_size),
        positions_(kPositionGroups),
        probabilities_(std::int64_t(kProbabilityNames.size())),
        histogram_(at::zeros({kBins}, at::kLong)) {}

  void update(const TokenBatch& batch, const TokenEnergies& energies) override;
  Json result() const override;
  void reset() override;

 private:
  Json quantiles() const;
  Json standard_errors() const;

  at::Tensor token_counts_;
  GroupSums targets_, positions_, probabilities_;
  at::Tensor histogram_;  // of retained energy, of tokens whose gradient is not zero
  double share_sum_ = 0;  // over the same tokens
  std::map<std::int64_t, DocumentSums> documents_;
  bool positions_known_ = true, documents_known_ = true;
  std::int64_t tokens_ = 0;
};

void TokenBreakdown::update(const TokenBatch& given, const TokenEnergies& energies_there) {
  const std::int64_t count = energies_there.total.size(0);
  if (count == 0) return;
  // A few numbers a token, which are counted one by one below.
  const auto here = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.cpu() : tensor; };
  const TokenBatch batch{
      .targets = here(given.targets), .documents = here(given.documents), .positions = here(given.positions)};
  const TokenEnergies energies{.total = here(energies_there.total),
                               .retained = here(energies_there.retained),
                               .log_probability = here(energies_there.log_probability)};
  tokens_ += count;
  targets_.add(batch.targets, energies);
  probabilities_.add(at::bucketize(energies.log_probability.exp(), at::tensor(kProbabilityEdges, at::kDouble),
                                   /*out_int32=*/false, /*right=*/true),
                     energies);
  const at::Tensor moving = energies.total.gt(0).logical_and(energies.retained.isfinite()).nonzero().squeeze(1);
  const at::Tensor share = energies.retained.index_select(0, moving) / energies.total.index_select(0, moving);
  count_targets((share * double(kBins)).to(at::kLong).clamp(0, kBins - 1), histogram_);
  share_sum_ += share.sum().item<double>();

  if ((positions_known_ = positions_known_ && batch.positions.defined())) {
    require(batch.positions.ge(0).all().item<bool>(), kWho, "positions must not be negative, got ",
            batch.positions.min().item<std::int64_t>());
    positions_.add(position_group(batch.positions), energies);
  }
  if ((documents_known_ = documents_known_ && batch.documents.defined())) {
    const at::Tensor ids = batch.documents.contiguous(), total = energies.total.contiguous(),
                     retained = energies.retained.contiguous(), log_p = energies.log_probability.contiguous();
    for (std::int64_t row = 0; row < count; ++row) {
      DocumentSums& sums = documents_[ids.const_data_ptr<std::int64_t>()[row]];
      sums.tokens += 1;
      sums.total += total.const_data_ptr<double>()[row];
      sums.retained += retained.const_data_ptr<double>()[row];
      sums.loss -= log_p.const_data_ptr<double>()[row];
    }
  }
}

Json TokenBreakdown::quantiles() const {
  const auto* bin = histogram_.const_data_ptr<std::int64_t>();
  const double count = double(histogram_.sum().item<std::int64_t>());
  Json json = Json::object();
  std::int64_t index = 0;
  double before = 0;
  for (std::size_t which = 0; which < kQuantiles.size(); ++which) {
    if (count == 0) {
      json[kQuantileNames[which]] = nullptr;
      continue;
    }
    const double wanted = kQuantiles[which] * count;
    while (index + 1 < kBins && before + double(bin[index]) < wanted) before += double(bin[index++]);
    json[kQuantileNames[which]] = (double(index) + (wanted - before) / double(bin[index])) / double(kBins);
  }
  return json;
}

Json TokenBreakdown::standard_errors() const {
  if (!documents_known_ || documents_.size() < 2) return nullptr;
  double total = 0, retained = 0;
  for (const auto& [id, sums] : documents_) total += sums.total, retained += sums.retained;
  const double error = ratio_error(documents_, &DocumentSums::retained, &DocumentSums::total);
  return {{"documents", documents_.size()},
          {"retained_energy", number_or_null(error)},
          {"destroyed_ratio", number_or_null(error / (2 * std::sqrt(1 - retained / total)))},
          {"loss", number_or_null(ratio_error(documents_, &DocumentSums::loss, &DocumentSums::tokens))}};
}

Json TokenBreakdown::result() const {
  require(tokens_ > 0, kWho, "at least one token with a target must have been seen, got none");
  at::Tensor counts = token_counts_;
  if (!counts.defined()) counts = targets_.sums().select(1, 0).to(at::kLong);
  const FrequencyBands bands = frequency_bands(counts);
  const auto moving = double(histogram_.sum().item<std::int64_t>());
  Json result = {{"tokens", tokens_},
                 {"mean", number_or_null(share_sum_ / moving)},
                 {"quantiles", quantiles()},
                 {"standard_error", standard_errors()}};
  result["by_frequency"] = targets_.merged(bands.band, std::int64_t(bands.names.size())).to_json(bands.names);
  result["by_probability"] = probabilities_.to_json(kProbabilityNames);
  result["by_position"] = positions_known_ ? positions_.to_json(position_names()) : Json(nullptr);
  return result;
}

void TokenBreakdown::reset() {
  targets_.reset();
  positions_.reset();
  probabilities_.reset();
  histogram_.zero_();
  share_sum_ = 0;
  documents_.clear();
  positions_known_ = documents_known_ = true;
  tokens_ = 0;
}

}  // namespace

std::unique_ptr<Diagnostic> make_token_breakdown(const DiagnosticContext& context) {
  return std::make_unique<TokenBreakdown>(context);
}

}  // namespace lmhead
