// Rotary position frequencies and their tables, as released checkpoints were trained with.
#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>

#include "lmhead/models/decoder_specification.h"

namespace lmhead {

/// The angle per position of every pair of elements, [width / 2] float32. Computed in float32 as published:
/// float64 would differ from every released checkpoint in the last digits. `deciding` is what `deciding_length` says of
/// the sequence. Sources: Su et al. 2021; Llama 3.1's scaling; Peng et al. 2023 (yarn, dynamic); Ding et al. 2024
/// (longrope).
at::Tensor rotary_frequencies(const RotarySpecification& specification, std::int64_t deciding = 0);

/// What a sequence's length does to its frequencies: 0 where nothing; lengths with the same answer have the same ones.
std::int64_t deciding_length(const RotarySpecification& specification, std::int64_t length);

/// cos and sin of position times frequency, both times attention_factor, a row a position from 0.
struct RotaryRows {
  at::Tensor cosine, sine;  // [positions, width / 2]

  RotaryRows narrow(std::int64_t first, std::int64_t length) const {
    return {cosine.narrow(0, first, length), sine.narrow(0, first, length)};
  }
  /// The rows of `positions` [N].
  RotaryRows select(const at::Tensor& positions) const;
};

/// Such rows of the sequences that were asked for last, grown on demand and kept. Several threads may ask at once.
class RotaryTable {
 public:
  explicit RotaryTable(const RotarySpecification& specification) : specification_(specification) {}
  /// At least `length` rows on `device`, for sequences of that length; they stay as they are however the table grows.
  RotaryRows rows(std::int64_t length, at::Device device);

 private:
  RotarySpecification specification_;
  std::mutex mutex_;
  std::int64_t deciding_ = 0;
  RotaryRows rows_;
};

}  // namespace lmhead
