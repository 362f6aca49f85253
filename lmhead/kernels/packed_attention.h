// Causal self-attention straight from the tensor of fused projections.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// softmax(mask(scale q k^T)) v for `projected` [B, T, H + 2 K, d], which holds `heads` = H query heads before K key
/// and K value heads, each key head serving H / K consecutive query heads; [B T, H d]. Accumulates in the input's type,
/// for bfloat16 in float32. Memory: one number a token and head; no scores beyond T x T of one head a thread.
/// float32, float64 and bfloat16, cast to float32, take a kernel of their own on the CPU where the head is narrow and
/// the sequence short: matrix products of such sizes spend their time on overhead. Everything else is the plain way.
at::Tensor packed_causal_attention(const at::Tensor& projected, std::int64_t heads, double scale);
/// Whether the kernel serves these, unless derivatives of another kind are asked for.
bool has_packed_kernel(const at::Tensor& projected);
/// ATen's scaled_dot_product_attention on the three parts.
at::Tensor plain_packed_causal_attention(const at::Tensor& projected, std::int64_t heads, double scale);

}  // namespace lmhead
