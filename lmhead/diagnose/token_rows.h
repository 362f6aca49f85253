// Rows of a batch that carry a target, checked once and cut into blocks that are cheap to hold.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace lmhead {

/// The rows of `targets` [N] that are not -100, as indices [n]. Throws on wrong shapes and on targets outside
/// [0, V).
at::Tensor rows_with_target(const at::Tensor& hidden, const at::Tensor& targets, std::int64_t hidden_size,
                            std::int64_t vocab_size, std::string_view who);

/// Every row, where the indices are all of 0, ..., N - 1 in order: then nothing is copied.
at::Tensor select_rows(const at::Tensor& tensor, const at::Tensor& rows);

/// How many rows to take at once so that a block of logits stays within 64 MB of float32, and at least 16.
std::int64_t rows_per_block(std::int64_t vocab_size);

}  // namespace lmhead
