// Rotary position frequencies and their tables, as released checkpoints were trained with.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/models/decoder_specification.h"

namespace lmhead {

/// The angle per position of every pair of elements, [width / 2] float32. Computed in float32 as published:
/// float64 would differ from every released checkpoint in the last digits. Sources: Su et al. 2021;
/// Llama 3.1's scaling.
at::Tensor rotary_frequencies(const RotarySpecification& specification);

/// cos and sin of position times frequency, grown on demand. Not for use by two threads at once.
class RotaryTable {
 public:
  explicit RotaryTable(const RotarySpecification& specification) : specification_(specification) {}
  /// Holds at least `length` rows on `device` from now on.
  void reserve(std::int64_t length, at::Device device);
  /// Rows [length, width / 2] of positions `first` and after.
  at::Tensor cosine(std::int64_t length, std::int64_t first = 0) const { return cosine_.narrow(0, first, length); }
  at::Tensor sine(std::int64_t length, std::int64_t first = 0) const { return sine_.narrow(0, first, length); }

 private:
  RotarySpecification specification_;
  at::Tensor cosine_, sine_;
};

}  // namespace lmhead
