// Rotary position frequencies and their tables, as released checkpoints were trained with.
#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>

#include "lmhead/models/decoder_specification.h"

namespace lmhead {

/// The angle per position of every pair of elements, [width / 2] float32. Computed in float32 as published:
/// float64 would differ from every released checkpoint in the last digits. Sources: Su et al. 2021;
/// Llama 3.1's scaling.
at::Tensor rotary_frequencies(const RotarySpecification& specification);

/// cos and sin of position times frequency, a row a position from 0.
struct RotaryRows {
  at::Tensor cosine, sine;  // [positions, width / 2]

  RotaryRows narrow(std::int64_t first, std::int64_t length) const {
    return {cosine.narrow(0, first, length), sine.narrow(0, first, length)};
  }
  /// The rows of `positions` [N].
  RotaryRows select(const at::Tensor& positions) const;
};

/// Such rows, grown on demand and kept. Several threads may ask at once.
class RotaryTable {
 public:
  explicit RotaryTable(const RotarySpecification& specification) : specification_(specification) {}
  /// At least `length` rows on `device`; they stay as they are however far the table grows afterwards.
  RotaryRows rows(std::int64_t length, at::Device device);

 private:
  RotarySpecification specification_;
  std::mutex mutex_;
  RotaryRows rows_;
};

}  // namespace lmhead
