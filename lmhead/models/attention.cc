#include "lmhead/models/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include <limits>

namespace lmhead {
namespace {

/// [B, T, K, d] to [B, H, T, d], each key head repeated for the query heads that it serves.
at::Tensor spread(const at::Tensor& shared, std::int64_t heads) {
  const std::int64_t batch = shared.size(0), length = shared.size(1), keys = shared.size(2),
                     width = shared.size(3);
  if (keys == heads) return shared.transpose(1, 2);
  return shared.unsqueeze(3)
      .expand({batch, length, keys, heads / keys, width})
      .reshape({batch, length, heads, width})
      .transpose(1, 2);
}

/// [T, T]: true where the row's token may see the column's.
at::Tensor visible(std::int64_t length, std::int64_t window, at::Device device) {
  const at::Tensor causal =
      at::ones({length, length}, at::TensorOptions().dtype(at::kBool).device(device)).tril();
  return window > 0 ? causal.triu(1 - window) : causal;
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const AttentionOptions& options) {
  const std::int64_t batch = query.size(0), length = query.size(1), heads = query.size(2),
                     width = query.size(3);
  const at::Tensor q = query.transpose(1, 2), k = spread(key, heads), v = spread(value, heads);
  const bool is_windowed = options.sliding_window > 0 && options.sliding_window < length;
  const auto mask = [&] { return visible(length, is_windowed ? options.sliding_window : 0, query.device()); };
  at::Tensor mixed;
  if (options.softcap > 0) {
    const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) * (options.scale / options.softcap);
    const at::Tensor capped = at::tanh(scores) * options.softcap;
    const double nothing = -std::numeric_limits<double>::infinity();
    mixed = at::matmul(at::softmax(capped.masked_fill(mask().logical_not(), nothing), -1), v);
  } else if (is_windowed) {
    mixed = at::scaled_dot_product_attention(q, k, v, mask(), 0.0, /*is_causal=*/false, options.scale);
  } else {
    mixed = at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true, options.scale);
  }
  return mixed.transpose(1, 2).reshape({batch * length, heads * width});
}

}  // namespace lmhead
