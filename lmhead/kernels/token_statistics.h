// What diagnostics need of every token, from logits that are there.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

/// By plain composition from `logits` [n, V] of the map, in float32 or wider; every target lies in [0, V).
TokenStatistics statistics_of_logits(const at::Tensor& logits, const LinearMap& map, const at::Tensor& targets,
                                     bool with_gradient);
/// `statistics` with zeros where `kept` [n] is false.
TokenStatistics kept_statistics(const TokenStatistics& statistics, const at::Tensor& kept);

}  // namespace lmhead
