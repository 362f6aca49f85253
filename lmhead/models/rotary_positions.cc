#include "lmhead/models/rotary_positions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lmhead {
namespace {

at::Tensor scale_as_llama3(const at::Tensor& frequencies, const RotarySpecification& s) {
  const at::Tensor wavelength = 2 * std::numbers::pi / frequencies;
  const double longest = s.original_max_position_embeddings / s.low_freq_factor;
  const double shortest = s.original_max_position_embeddings / s.high_freq_factor;
  const at::Tensor ramp =
      (s.original_max_position_embeddings / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  const at::Tensor between = (1 - ramp) * frequencies / s.factor + ramp * frequencies;
  return at::where(wavelength > longest, frequencies / s.factor,
                   at::where(wavelength < shortest, frequencies, between));
}

at::Tensor scale_as_yarn(const at::Tensor& wavelengths, const RotarySpecification& s) {
  const double width = double(s.width), turn = 2 * std::numbers::pi;
  // The element that turns so often within the original context.
  const auto element = [&](double turns) {
    return width * std::log(s.original_max_position_embeddings / (turns * turn)) / (2 * std::log(s.theta));
  };
  const auto end = [&](double place, auto whole) { return s.truncate ? whole(place) : place; };
  const double low = std::max(end(element(s.beta_fast), [](double place) { return std::floor(place); }), 0.0);
  double high = std::min(end(element(s.beta_slow), [](double place) { return std::ceil(place); }), width - 1);
  if (low == high) high += 0.001;
  const at::Tensor elements = at::arange(s.width / 2, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor kept = 1 - at::clamp((elements - low) / (high - low), 0, 1);
  return 1.0 / (s.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept;
}

double dynamic_theta(const RotarySpecification& s, std::int64_t length) {
  if (s.scaling != RotaryScaling::kDynamic || length == 0) return s.theta;
  const double width = double(s.width),
               stretch = s.factor * double(length) / s.max_position_embeddings - (s.factor - 1);
  return s.theta * std::pow(stretch, width / (width - 2));
}

}  // namespace

std::int64_t deciding_length(const RotarySpecification& specification, std::int64_t length) {
  const auto beyond = [&](double limit) { return double(length) > limit; };
  if (specification.scaling == RotaryScaling::kDynamic)
    return beyond(specification.max_position_embeddings) ? length : 0;
  if (specification.scaling == RotaryScaling::kLongRope)
    return beyond(specification.original_max_position_embeddings) ? 1 : 0;
  return 0;
}

at::Tensor rotary_frequencies(const RotarySpecification& specification, std::int64_t deciding) {
  const at::Tensor steps = at::arange(0, specification.width, 2, at::TensorOptions().dtype(at::kFloat));
  const double theta = dynamic_theta(specification, deciding);
  const at::Tensor wavelengths = at::pow(theta, steps / double(specification.width));  // over 2 pi
  const at::Tensor frequencies = 1.0 / wavelengths;
  switch (specification.scaling) {
    case RotaryScaling::kLinear:
      return frequencies / specification.factor;
    case RotaryScaling::kLlama3:
      return scale_as_llama3(frequencies, specification);
    case RotaryScaling::kYarn:
      return scale_as_yarn(wavelengths, specification);
    case RotaryScaling::kLongRope:
      return 1.0 / (wavelengths *
                    at::tensor(deciding > 0 ? specification.long_factor : specification.short_factor, at::kFloat));
    case RotaryScaling::kDynamic:
    case RotaryScaling::kNone:
      break;
  }
  return frequencies;
}

RotaryRows RotaryRows::select(const at::Tensor& positions) const {
  return {cosine.index_select(0, positions), sine.index_select(0, positions)};
}

RotaryRows RotaryTable::rows(std::int64_t length, at::Device device) {
  const std::lock_guard lock(mutex_);
  const std::int64_t deciding = deciding_length(specification_, length);
  const bool is_kept = rows_.cosine.defined() && deciding == deciding_;
  if (is_kept && rows_.cosine.size(0) >= length && rows_.cosine.device() == device) return rows_;
  // A sequence that grows token by token would otherwise compute all of it each time.
  const std::int64_t count = is_kept ? std::max(length, 2 * rows_.cosine.size(0)) : length;
  const at::Tensor positions = at::arange(count, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor angles = positions.unsqueeze(1) * rotary_frequencies(specification_, deciding).unsqueeze(0);
  const auto table = [&](const at::Tensor& values) { return (values * specification_.attention_factor).to(device); };
  rows_ = {table(angles.cos()), table(angles.sin())};
  deciding_ = deciding;
  return rows_;
}

}  // namespace lmhead
