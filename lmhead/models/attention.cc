#include "lmhead/models/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <limits>

namespace lmhead {
namespace {

/// [B, S, K, d] to [B, H, S, d], each key head repeated for the query heads that it serves.
at::Tensor spread(const at::Tensor& shared, std::int64_t heads) {
  const std::int64_t batch = shared.size(0), length = shared.size(1), keys = shared.size(2), width = shared.size(3);
  if (keys == heads) return shared.transpose(1, 2);
  return shared.unsqueeze(3)
      .expand({batch, length, keys, heads / keys, width})
      .reshape({batch, length, heads, width})
      .transpose(1, 2);
}

/// [T, S]: true where the row's token, one of the last T, may see the column's, one of all S.
at::Tensor visible(std::int64_t queries, std::int64_t length, std::int64_t window, at::Device device) {
  const std::int64_t own = length - queries;  // the column of the first row's own token
  const at::Tensor causal = at::ones({queries, length}, at::TensorOptions().dtype(at::kBool).device(device)).tril(own);
  return window > 0 ? causal.triu(own + 1 - window) : causal;
}

/// softmax(mask(softcap(scale q k^T))) v with scores capped; all [B, H, ., .].
at::Tensor capped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask,
                            const AttentionOptions& options) {
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) * (options.scale / options.softcap);
  const at::Tensor capped = at::tanh(scores) * options.softcap;
  const double nothing = -std::numeric_limits<double>::infinity();
  return at::matmul(at::softmax(capped.masked_fill(mask.logical_not(), nothing), -1), v);
}

/// [B, H, T, d] to [B T, H d].
at::Tensor join(const at::Tensor& mixed) { return mixed.transpose(1, 2).flatten(2).flatten(0, 1); }

}  // namespace

at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const AttentionOptions& options) {
  const std::int64_t queries = query.size(1), heads = query.size(2);
  // What lies before the window of the first query is seen by none.
  const std::int64_t beyond =
      options.sliding_window > 0 ? std::max<std::int64_t>(0, key.size(1) - queries - options.sliding_window + 1) : 0;
  const std::int64_t length = key.size(1) - beyond;
  const auto within = [&](const at::Tensor& all) { return beyond > 0 ? all.narrow(1, beyond, length) : all; };
  const at::Tensor q = query.transpose(1, 2), k = spread(within(key), heads), v = spread(within(value), heads);
  const bool is_windowed = options.sliding_window > 0 && options.sliding_window < length;
  const auto mask = [&] { return visible(queries, length, is_windowed ? options.sliding_window : 0, query.device()); };
  at::Tensor mixed;
  if (options.softcap > 0) {
    mixed = capped_attention(q, k, v, mask(), options);
  } else if (queries == 1) {  // the last token sees all that is left
    mixed = at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/false, options.scale);
  } else if (is_windowed || queries < length) {
    mixed = at::scaled_dot_product_attention(q, k, v, mask(), 0.0, /*is_causal=*/false, options.scale);
  } else {
    mixed = at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true, options.scale);
  }
  return join(mixed);
}

at::Tensor masked_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const at::Tensor& visible, const AttentionOptions& options) {
  const std::int64_t heads = query.size(2);
  const at::Tensor q = query.transpose(1, 2), k = spread(key, heads), v = spread(value, heads);
  return join(options.softcap > 0
                  ? capped_attention(q, k, v, visible, options)
                  : at::scaled_dot_product_attention(q, k, v, visible, 0.0, /*is_causal=*/false, options.scale));
}

}  // namespace lmhead
