#include "lmhead/diagnose/gradient_retention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/kinds.h"
#include "lmhead/diagnose/token_rows.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "gradient_retention";

TokenStatistics select_rows(const TokenStatistics& statistics, const at::Tensor& rows) {
  const auto of = [&](const at::Tensor& values) { return lmhead::select_rows(values, rows); };
  return {of(statistics.log_probability),
          of(statistics.logsumexp),
          of(statistics.entropy),
          of(statistics.correct),
          of(statistics.logit_gradient_square),
          of(statistics.hidden_gradient)};
}

}  // namespace

void GradientRetentionOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("every", every, "measure at every so many steps; 0: never", at_least(0));
  visitor.field("tokens", tokens, "measure so many evenly spaced tokens of the batch; 0: all of them", at_least(0));
  head_space.visit_fields(visitor);
}

Json to_json(const GradientRetentionResult& result) {
  Json json = {{"destroyed_ratio", number_or_null(result.destroyed_ratio)},
               {"null_destroyed_ratio", result.null_destroyed_ratio},
               {"destroyed_excess", number_or_null(result.destroyed_excess)},
               {"retained_energy", number_or_null(result.retained_energy)},
               {"visible_cosine", number_or_null(result.visible_cosine)},
               {"step_cosine", result.step_cosine},
               {"head_rank", result.head_rank},
               {"head_condition", result.head_condition},
               {"tokens", result.tokens}};
  if (result.centered) json["centered"] = true;
  return json;
}

GradientRetention::GradientRetention(const LinearMap& map, const HeadSpaceOptions& options, const Processes& processes)
    : head_space_(std::make_shared<HeadSpace>(map, options, processes)) {}

GradientRetention::GradientRetention(std::shared_ptr<const HeadSpace> head_space)
    : head_space_(std::move(head_space)) {}

TokenEnergies GradientRetention::update(const at::Tensor& hidden, const at::Tensor& targets) {
  const at::Tensor rows =
      rows_with_target(hidden, targets, head_space_->hidden_size(), head_space_->vocab_size(), kWho);
  TokenEnergies energies = head_space_->energies(select_rows(hidden, rows), select_rows(targets, rows));
  add(energies);
  return energies;
}

void GradientRetention::add(const TokenEnergies& energies) {
  const double total = energies.total.sum().item<double>();
  const double gradient_square = energies.gradient_square.sum().item<double>();
  require(std::isfinite(total) && std::isfinite(gradient_square), kWho,
          "features, weight and bias must give finite logit gradients, got NaN or infinity");
  tokens_ += energies.total.size(0);
  total_ += total;
  gradient_square_ += gradient_square;
  retained_ += energies.retained.sum().item<double>();
  step_square_ += energies.step_square.sum().item<double>();
}

GradientRetentionResult GradientRetention::compute() const {
  require(tokens_ > 0, kWho, "at least one token with a target must have been seen, got none");
  GradientRetentionResult result{};
  // Rounding of the gradient can leave the quotient just outside [0, 1].
  result.retained_energy =
      total_ > 0 ? std::clamp(retained_ / total_, 0.0, 1.0) : std::numeric_limits<double>::quiet_NaN();
  result.destroyed_ratio = std::sqrt(1 - result.retained_energy);
  result.null_destroyed_ratio = std::sqrt(head_space_->null_destroyed_energy());
  result.destroyed_excess = result.destroyed_ratio - result.null_destroyed_ratio;
  result.visible_cosine = std::sqrt(result.retained_energy);
  const double step_norms = std::sqrt(step_square_ * total_);
  result.step_cosine = step_norms > 0 ? std::min(gradient_square_ / step_norms, 1.0) : 0.0;
  result.head_rank = head_space_->rank();
  result.head_condition = head_space_->condition();
  result.tokens = tokens_;
  result.centered = head_space_->centered();
  return result;
}

void GradientRetention::reset() {
  tokens_ = 0;
  total_ = retained_ = gradient_square_ = step_square_ = 0;
}

at::Tensor GradientRetention::sums() const {
  return at::tensor(std::vector<double>{double(tokens_), total_, retained_, gradient_square_, step_square_},
                    at::kDouble);
}

void GradientRetention::add_sums(const at::Tensor& sums) {
  require(sums.dim() == 1 && sums.size(0) == 5 && sums.scalar_type() == at::kDouble, kWho,
          "sums must be float64 [5], got ", sums.scalar_type(), " ", sums.sizes());
  tokens_ += sums[0].item<std::int64_t>();
  total_ += sums[1].item<double>();
  retained_ += sums[2].item<double>();
  gradient_square_ += sums[3].item<double>();
  step_square_ += sums[4].item<double>();
}

namespace {

/// Of tokens with a target so many, evenly spaced; 0: all.
at::Tensor chosen_rows(const at::Tensor& hidden, const at::Tensor& targets, const HeadSpace& space,
                       std::int64_t tokens) {
  const at::Tensor rows = rows_with_target(hidden, targets, space.hidden_size(), space.vocab_size(), kWho);
  const std::int64_t count = rows.size(0);
  if (tokens == 0 || tokens >= count) return rows;
  return rows.index_select(0, at::arange(tokens, rows.options()).mul(count).floor_divide(tokens));
}

}  // namespace

GradientRetentionResult measure_gradient_retention(const LinearMap& map, const at::Tensor& hidden,
                                                   const at::Tensor& targets, const GradientRetentionOptions& options,
                                                   const TokenStatistics* statistics) {
  at::NoGradGuard no_grad;
  HeadSpaceOptions how = options.head_space;
  how.from_training_pass = statistics != nullptr;
  GradientRetention retention(map, how);
  const HeadSpace& space = retention.head_space();
  const at::Tensor rows = chosen_rows(hidden, targets, space, options.tokens);
  if (statistics && !space.through_basis()) retention.add(space.energies(select_rows(*statistics, rows)));
  else retention.update(select_rows(hidden, rows), select_rows(targets, rows));
  return retention.compute();
}

GradientRetentionResult measure_gradient_retention(const SharedWords& words, const at::Tensor& hidden,
                                                   const at::Tensor& targets, const GradientRetentionOptions& options) {
  at::NoGradGuard no_grad;
  GradientRetention retention(words.map, options.head_space, words.processes);
  const HeadSpace& space = retention.head_space();
  const at::Tensor rows = chosen_rows(hidden, targets, space, options.tokens);
  const SharedWords differentiated{space.differentiated_map(), words.vocab_size, words.processes};
  retention.add(space.energies_of_features(shared_words_statistics(space.features(select_rows(hidden, rows)),
                                                                   differentiated, select_rows(targets, rows),
                                                                   TokensOf::kAllProcesses, /*with_gradient=*/true)));
  return retention.compute();
}

namespace {

class GradientRetentionDiagnostic : public Diagnostic {
 public:
  explicit GradientRetentionDiagnostic(const DiagnosticContext& context) : retention_(context.head_space) {}
  void update(const TokenBatch&, const TokenEnergies& energies) override { retention_.add(energies); }
  Json result() const override { return to_json(retention_.compute()); }
  void reset() override { retention_.reset(); }

 private:
  GradientRetention retention_;
};

}  // namespace

std::unique_ptr<Diagnostic> make_gradient_retention(const DiagnosticContext& context) {
  return std::make_unique<GradientRetentionDiagnostic>(context);
}

}  // namespace lmhead
