// The elementwise and row operations of a decoder block; each takes and returns contiguous tensors.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32, returned in `type`.
at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double eps, at::ScalarType type);
at::Tensor plain_rms_norm(const at::Tensor& input, const at::Tensor& weight, double eps, at::ScalarType type);

/// silu(gate) * up for `gate_up` [N, 2 F] holding gate before up; [N, F].
at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor plain_swiglu(const at::Tensor& gate_up);

/// Rotates the first `heads` of `projected` [B, T, heads_in_all, head_dim] by `cosine` and `sine` [T, rotary / 2]: in
/// each head, element i pairs with element i + rotary / 2 (Su et al. 2021, in the layout of Hugging Face); elements
/// beyond `rotary` = 2 cosine.size(1), and the heads after `heads`, pass unchanged.
at::Tensor rotary(const at::Tensor& projected, const at::Tensor& cosine, const at::Tensor& sine, std::int64_t heads);
at::Tensor plain_rotary(const at::Tensor& projected, const at::Tensor& cosine, const at::Tensor& sine,
                        std::int64_t heads);

}  // namespace lmhead
