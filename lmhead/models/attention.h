// Causal attention with the variants that decoders use: shared key heads, sliding windows, soft-capped
// scores.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

struct AttentionOptions {
  double scale = 1;                 // multiplies q k^T
  double softcap = 0;               // scores become c tanh(score / c); 0: none
  std::int64_t sliding_window = 0;  // tokens that a token sees, itself included; 0: all before it
};

/// softmax(mask(softcap(scale q k^T))) v for `query` [B, T, H, d] and `key`, `value` [B, S, K, d], where a
/// key head serves the H / K consecutive query heads; [B T, H d]. The queries are those of the last T of S
/// tokens: S = T, or more where keys of earlier tokens were kept. Memory: B H T S scores where there is a
/// soft-cap, else none.
at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const AttentionOptions& options);

/// The same for `query` [1, M, H, d] of which each sees those of T keys that `visible` [M, T] says; [M, H d]. A window
/// is the mask's business.
at::Tensor masked_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const at::Tensor& visible, const AttentionOptions& options);

}  // namespace lmhead
