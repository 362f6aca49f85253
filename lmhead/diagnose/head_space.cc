#include "lmhead/diagnose/head_space.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_pinv.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tril.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/options.h"
#include "lmhead/base/scratch_tensor.h"
#include "lmhead/diagnose/token_rows.h"
#include "lmhead/kernels/gram.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "head_space";
/// Above this condition one float64 Gram matrix has lost too many digits of the small directions.
constexpr double kOnePassCondition = 1e4;
/// The rounding of a gradient, times the condition of W, that is let through: in a pass of its own, in one of training.
constexpr double kAmplifiedRounding = 4e-6, kAmplifiedRoundingOfTraining = 1e-4;

constexpr at::Tensor TokenEnergies::* kEnergies[] = {&TokenEnergies::total, &TokenEnergies::retained,
                                                     &TokenEnergies::gradient_square, &TokenEnergies::step_square,
                                                     &TokenEnergies::log_probability};

/// Rows of W to convert at once: 8 MB of float64.
std::int64_t tile_rows(std::int64_t hidden_size) {
  return std::clamp<std::int64_t>((std::int64_t(1) << 20) / hidden_size, 64, 8192);
}

/// Calls `use(row, tile)` with consecutive rows of `weight`, in its type: less a float64 row they are float64.
template <class Use>
void for_each_tile(const at::Tensor& weight, const Use& use) {
  const std::int64_t vocab_size = weight.size(0), step = tile_rows(weight.size(1));
  for (std::int64_t row = 0; row < vocab_size; row += step)
    use(row, weight.narrow(0, row, std::min(step, vocab_size - row)));
}

}  // namespace

at::Tensor mean_row(const at::Tensor& weight) {
  at::Tensor sum = at::zeros({weight.size(1)}, weight.options().dtype(at::kDouble));
  for_each_tile(weight, [&](std::int64_t, const at::Tensor& tile) { sum += tile.to(at::kDouble).sum(0); });
  return sum / weight.size(0);
}

at::Tensor row_norms(const at::Tensor& weight) {
  at::Tensor norms = at::empty({weight.size(0)}, weight.options().dtype(at::kDouble));
  for_each_tile(weight, [&](std::int64_t row, const at::Tensor& tile) {
    norms.narrow(0, row, tile.size(0)).copy_(tile.to(at::kDouble).square().sum(1).sqrt());
  });
  return norms;
}

void HeadSpaceOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("rank_cutoff", rank_cutoff,
                "singular values of the head not above this share of the largest count as zero; "
                "null: 2e-7 for float64 weights, else 1e-6",
                between(0, 1));
  visitor.field("center_weight", center_weight,
                "measure the column space of the head less its mean row (changes neither probabilities nor gradients)");
}

HeadSpace::HeadSpace(const LinearMap& map, const HeadSpaceOptions& options, const Processes& processes)
    : options_(options), processes_(processes), map_(map) {
  at::NoGradGuard no_grad;
  const at::Tensor& weight = map.weight;
  require(weight.defined() && weight.dim() == 2 && weight.numel() > 0 && at::isFloatingType(weight.scalar_type()), kWho,
          "weight must be a floating [V, D] that is not empty, got ",
          weight.defined() ? weight.sizes() : at::IntArrayRef{});
  require(!map.bias.defined() || (map.bias.dim() == 1 && map.bias.size(0) == weight.size(0)), kWho, "bias must be [",
          weight.size(0), "], got ", map.bias.defined() ? map.bias.sizes() : at::IntArrayRef{});
  require(!options.center_weight || !bends_logits(map.transform), kWho,
          "center_weight must be off where a soft-cap or another map bends the logits: rows of their gradient do not "
          "sum to zero");
  hidden_size_ = weight.size(1);
  vocab_size_ = std::int64_t(processes.sum(double(weight.size(0))));
  map_.weight = weight.detach();
  if (map.bias.defined()) map_.bias = map.bias.detach();
  find_basis();

  // The gradient's rounding is that of the type it is computed in, which is never narrower than float32.
  const bool is_double = weight.scalar_type() == at::kDouble, is_float = weight.scalar_type() == at::kFloat;
  const double rounding = is_double ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  const double most = options.from_training_pass ? kAmplifiedRoundingOfTraining : kAmplifiedRounding;
  const bool is_narrow = !is_double && !is_float && !options.from_training_pass;
  const bool careful = condition_ * rounding > most || options.center_weight || is_narrow;
  if (map_.bias.defined()) map_.bias = map_.bias.to(is_double ? at::kDouble : at::kFloat);
  if (careful) form_basis();
}

at::Tensor HeadSpace::gram(const at::Tensor& transform) const {
  const std::int64_t width = transform.defined() ? transform.size(1) : hidden_size_;
  const at::Tensor sum = at::zeros({width, width}, map_.weight.options().dtype(at::kDouble));
  for_each_tile(map_.weight, [&](std::int64_t, const at::Tensor& rows) {
    const at::Tensor tile = mean_row_.defined() ? rows - mean_row_ : rows;
    add_gram(transform.defined() ? at::matmul(tile.to(at::kDouble), transform) : tile, sum);
  });
  const at::Tensor lower = at::tril(sum);
  return processes_.sum(lower + at::tril(lower, -1).t());
}

void HeadSpace::find_basis() {
  const at::Tensor& weight = map_.weight;
  if (options_.center_weight) mean_row_ = mean_row(weight);
  if (options_.center_weight && !processes_.alone())
    mean_row_ = processes_.sum(mean_row_ * double(weight.size(0))) / double(vocab_size_);
  const double cutoff = options_.rank_cutoff.value_or(weight.scalar_type() == at::kDouble ? 2e-7 : 1e-6);

  const at::Tensor first_gram = gram({});
  require(std::isfinite(first_gram.trace().item<double>()), kWho, "weight must be finite, got NaN or infinity in it");
  const auto [eigenvalues, eigenvectors] = at::linalg_eigh(first_gram);
  const at::Tensor ascending = eigenvalues.clamp_min(0).sqrt();
  const double largest = ascending[-1].item<double>();
  // Where the mean row was nearly all there was, what is left of W is the rounding of its entries.
  const double removed =
      mean_row_.defined() ? std::sqrt(double(vocab_size_) * mean_row_.square().sum().item<double>()) : 0;
  rank_ =
      std::min<std::int64_t>(ascending.gt(cutoff * std::max(largest, removed)).sum().item<std::int64_t>(), vocab_size_);
  singular_values_ = ascending.flip(0).narrow(0, 0, std::min(vocab_size_, hidden_size_)).clone();
  const at::Tensor kept = ascending.narrow(0, hidden_size_ - rank_, rank_);
  const at::Tensor vectors = eigenvectors.narrow(1, hidden_size_ - rank_, rank_);
  transform_ = vectors / kept;
  coordinates_ = (vectors * kept).t();
  if (rank_ == 0) return;

  condition_ = largest / kept[0].item<double>();
  if (condition_ <= kOnePassCondition) return;
  const auto [second_values, second_vectors] = at::linalg_eigh(gram(transform_));
  transform_ = at::matmul(transform_, second_vectors / second_values.sqrt());
  coordinates_ = at::linalg_pinv(transform_);
  const at::Tensor refined = at::linalg_svdvals(transform_).reciprocal().flip(0);
  singular_values_.narrow(0, 0, rank_).copy_(refined);
  condition_ = (refined[0] / refined[-1]).item<double>();
}

void HeadSpace::form_basis() {
  const at::ScalarType type = map_.weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  if (rank_ == 0) {  // there is no Q; W^T d is zero, and so is every coordinate
    map_.weight = map_.weight.to(type);
    return;
  }
  at::Tensor basis =
      on_device(scratch_tensor({map_.weight.size(0), rank_}, type, options_.scratch), map_.weight.device());
  for_each_tile(map_.weight, [&](std::int64_t row, const at::Tensor& rows) {
    const at::Tensor tile = mean_row_.defined() ? rows - mean_row_ : rows;
    basis.narrow(0, row, tile.size(0)).copy_(at::matmul(tile.to(at::kDouble), transform_));
  });
  map_.weight = basis;
  through_basis_ = true;
}

TokenEnergies HeadSpace::energies(const at::Tensor& hidden, const at::Tensor& targets) const {
  require(processes_.alone(), kWho, "tokens must be given as statistics where several processes have rows of W");
  at::NoGradGuard no_grad;
  const std::int64_t count = targets.size(0), step = rows_per_block(vocab_size());
  TokenEnergies all;
  for (auto member : kEnergies) all.*member = at::empty({count}, transform_.options());
  all.correct = at::empty({count}, transform_.options().dtype(at::kBool));
  for (std::int64_t row = 0; row < count; row += step) {
    const std::int64_t rows = std::min(step, count - row);
    const TokenEnergies block = block_energies(hidden.narrow(0, row, rows), targets.narrow(0, row, rows));
    for (auto member : kEnergies) (all.*member).narrow(0, row, rows).copy_(block.*member);
    all.correct.narrow(0, row, rows).copy_(block.correct);
  }
  return all;
}

TokenEnergies HeadSpace::block_energies(const at::Tensor& hidden, const at::Tensor& targets) const {
  return energies_of(token_statistics(features(hidden), map_, targets));
}

at::Tensor HeadSpace::features(const at::Tensor& hidden) const {
  at::NoGradGuard no_grad;
  at::Tensor features = hidden.detach();
  if (through_basis_) features = at::matmul(features.to(at::kDouble), coordinates_.t());  // h W^T = (h R^T) Q^T
  return features.to(map_.weight.scalar_type());
}

TokenEnergies HeadSpace::energies_of_features(const TokenStatistics& statistics) const {
  at::NoGradGuard no_grad;
  return energies_of(statistics);
}

TokenEnergies HeadSpace::energies(const TokenStatistics& statistics) const {
  require(!through_basis_, kWho, "energies of given statistics need a loss that is differentiated through W itself");
  at::NoGradGuard no_grad;
  return energies_of(statistics);
}

TokenEnergies HeadSpace::energies_of(const TokenStatistics& statistics) const {
  at::Tensor gradient = statistics.hidden_gradient.to(at::kDouble);
  const at::Tensor projection = through_basis_ ? gradient : at::matmul(gradient, transform_);  // Q^T d
  if (through_basis_) gradient = at::matmul(projection, coordinates_);
  TokenEnergies energies;
  energies.total = statistics.logit_gradient_square.to(at::kDouble);
  energies.retained = spans_everything() ? energies.total.clone() : projection.square().sum(1);
  energies.gradient_square = gradient.square().sum(1);
  energies.step_square = at::matmul(gradient, coordinates_.t()).square().sum(1);
  energies.log_probability = statistics.log_probability.to(at::kDouble);
  energies.correct = statistics.correct;
  return energies;
}

at::Tensor HeadSpace::coordinates(const at::Tensor& gradient) const {
  at::NoGradGuard no_grad;
  const at::Tensor product = matrix_product(gradient.to(map_.weight.scalar_type()), map_.weight).to(at::kDouble);
  return through_basis_ ? product : at::matmul(product, transform_);
}

at::Tensor HeadSpace::backpropagated(const at::Tensor& coordinates) const {
  return at::matmul(at::matmul(coordinates, coordinates_), coordinates_.t());
}

at::Tensor HeadSpace::expand(const at::Tensor& coordinates) const {
  at::NoGradGuard no_grad;
  const at::Tensor weights = through_basis_ ? coordinates : at::matmul(coordinates, transform_.t());
  return matrix_product(weights.to(map_.weight.scalar_type()), map_.weight.t()).to(at::kDouble);
}

double HeadSpace::null_destroyed_energy() const {
  if (spans_everything()) return 0;
  return 1 - double(rank_) / double(vocab_size() - (centered() ? 1 : 0));
}

}  // namespace lmhead
