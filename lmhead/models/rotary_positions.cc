#include "lmhead/models/rotary_positions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/where.h>

#include <algorithm>
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

}  // namespace

at::Tensor rotary_frequencies(const RotarySpecification& specification) {
  const at::Tensor steps = at::arange(0, specification.width, 2, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor frequencies = 1.0 / at::pow(specification.theta, steps / double(specification.width));
  switch (specification.scaling) {
    case RotaryScaling::kLinear:
      return frequencies / specification.factor;
    case RotaryScaling::kLlama3:
      return scale_as_llama3(frequencies, specification);
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
  if (rows_.cosine.defined() && rows_.cosine.size(0) >= length && rows_.cosine.device() == device) return rows_;
  // A sequence that grows token by token would otherwise compute all of it each time.
  const std::int64_t count = rows_.cosine.defined() ? std::max(length, 2 * rows_.cosine.size(0)) : length;
  const at::Tensor positions = at::arange(count, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor angles = positions.unsqueeze(1) * rotary_frequencies(specification_).unsqueeze(0);
  rows_ = {angles.cos().to(device), angles.sin().to(device)};
  return rows_;
}

}  // namespace lmhead
