// What one micro-batch's pass through the head shows to whoever changes its gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "lmhead/heads/lm_head.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

struct HeadPass {
  std::int64_t step = 1;         // counted from 1
  std::int64_t part = 0;         // of the step's micro-batches
  std::uint64_t seed = 0;        // of everything that is drawn
  at::Tensor hidden;             // [N, D] as the head saw them, without history
  at::Tensor targets;            // [N], all within the vocabulary
  std::optional<LinearMap> map;  // float32 masters, also in mixed precision
  LossOptions loss;
  double tokens_per_gradient = 1;  // times dL/dH gives each token's own g_t = W^T d_t: the step's tokens
  at::Tensor feature_gradient;     // [N, D] float32 dL/dH at the features, once backward has come there
  Processes processes = {};        // that have the micro-batch together
  std::int64_t rows_before = 0;    // of the micro-batch, in processes before this one
  std::optional<std::int64_t> rows_of_all = std::nullopt;  // of the micro-batch; nothing: N

  double rows() const { return double(rows_of_all.value_or(hidden.size(0))); }
};

/// Calls `use(first, logits)` for blocks of rows; a block has at most 2^19 logits, or one row.
void for_each_logit_block(const HeadPass& pass, const std::function<void(std::int64_t, const at::Tensor&)>& use);

/// Rows d_t = d loss_t / d u_t for `logits` [n, V] of rows `first`, ..., where u = W h + b lies before scale and
/// soft-cap: p_t - y_t for the plain loss; z-loss and label smoothing included. Type: that of the logits. Memory: 3 n
/// V.
at::Tensor logit_gradient(const HeadPass& pass, std::int64_t first, const at::Tensor& logits);

}  // namespace lmhead
