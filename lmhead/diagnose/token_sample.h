// The first tokens of a measurement, kept for diagnostics that must see them twice.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lmhead/diagnose/diagnostic.h"

namespace lmhead {

/// Keeps up to `capacity` tokens. Memory: capacity x D in the type of the features.
class TokenSample {
 public:
  explicit TokenSample(std::int64_t capacity) : capacity_(capacity) {}

  void add(const TokenBatch& batch, const TokenEnergies& energies);
  void reset();

  std::int64_t size() const { return size_; }
  at::Tensor hidden() const;     // [size, D]
  at::Tensor targets() const;    // [size]
  at::Tensor documents() const;  // [size], undefined where any batch came without
  at::Tensor totals() const;     // [size] ||d||^2
  double total() const { return total_; }
  double retained() const { return retained_; }
  double gradient_square() const { return gradient_square_; }
  double step_square() const { return step_square_; }

 private:
  std::int64_t capacity_, size_ = 0;
  std::vector<at::Tensor> hidden_, targets_, documents_, totals_;
  double total_ = 0, retained_ = 0, gradient_square_ = 0, step_square_ = 0;
};

}  // namespace lmhead
