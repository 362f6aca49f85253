// Attention of the tokens of trees to those on their way from the root.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/models/attention.h"
#include "lmhead/models/token_trees.h"

namespace lmhead {

/// Queries, keys and values of a pass over trees; each key head serves H / K consecutive query heads.
struct TreeHeads {
  at::Tensor query;       // [M, H, d] of the tokens that are asked for, or [N, H, d]
  at::Tensor key, value;  // [N, K, d]
  bool of_asked = false;  // the former
};

/// softmax(mask(softcap(scale q k^T))) v, [M, H d] or [N, H d]; a sliding window counts by positions. No derivatives.
/// On the CPU by oneDNN's micro-kernels where there are any and no scores are capped: sums in float32, rounded to the
/// type of the query at the end. Memory beyond the result: of each thread keys and values of a key head in one tree,
/// and 64 rows of scores.
at::Tensor tree_attention(const TreeHeads& heads, const TokenTrees& trees, const AttentionOptions& options);
at::Tensor plain_tree_attention(const TreeHeads& heads, const TokenTrees& trees, const AttentionOptions& options);

/// Causal attention of whole sequences `projected` [B, T, H + 2 K, d], which holds `heads` = H query heads before K key
/// and K value heads, as of trees that do not branch: [B T, H d]. No derivatives.
at::Tensor chain_attention(const at::Tensor& projected, std::int64_t heads, const AttentionOptions& options);
/// Whether attention of such queries takes the micro-kernels.
bool has_tree_kernel(const at::Tensor& query, const AttentionOptions& options);

}  // namespace lmhead
