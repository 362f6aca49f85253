// k-means over the rows of a matrix.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lmhead/base/random.h"

namespace lmhead {

/// The cluster of every row of `rows` [V, D], each of `clusters` with one row at least: 20 iterations of Lloyd at most,
/// from seeds that `stream` draws as k-means++ does. Memory: 8,192 x clusters distances. Throws unless they are 1 to V.
std::vector<std::int64_t> cluster_rows(const at::Tensor& rows, std::int64_t clusters, RandomStream& stream);

}  // namespace lmhead
