// Features of the body's inner blocks, for heads that look at more than the last.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace lmhead {

/// `count` of a body's inner blocks, counted from 0, at even distances: never the last. Throws `[who] name must ...`
/// where there are not so many.
std::vector<std::int64_t> inner_blocks(std::int64_t count, std::int64_t num_hidden_layers, const char* who,
                                       const char* name);

/// Features [N, D] after an inner block as they would be after a norm: rows of unit square mean times `gain` [D], in
/// `type`.
at::Tensor normed_layer(const at::Tensor& layer, const at::Tensor& gain, at::ScalarType type);

}  // namespace lmhead
