// Tokens in groups by how often they occur.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace lmhead {

/// Bands of tokens by the rank of their count in `counts` [V] int64: the 10 most frequent, up to the 100th, and so
/// on; tokens with count 0 are a band of their own, the last. Ties are ranked by id.
struct FrequencyBands {
  at::Tensor band;  // [V] int64
  std::vector<std::string> names;
};
FrequencyBands frequency_bands(const at::Tensor& counts);

/// Adds one for every target to `counts` [V] int64.
void count_targets(const at::Tensor& targets, at::Tensor& counts);

}  // namespace lmhead
