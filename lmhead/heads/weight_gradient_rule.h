// Rules for what the head's matrix receives in place of dL/dW, and penalties on that matrix.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "lmhead/heads/head_pass.h"

namespace lmhead {

/// P_W x = W (W^T W)^+ W^T x: the part of the columns of `gradient` [V, D] that lies in the column space of `weight`
/// [V, D]. Float64 within; singular values of W below 1e-6 of the largest count as zero. Type: that of `gradient`.
at::Tensor project_on_columns(const at::Tensor& weight, const at::Tensor& gradient);

/// The value of a penalty and its gradient with respect to W [V, D], in the type of W.
struct Penalty {
  double value;
  at::Tensor gradient;
};

/// ||W^T W / m - I||_F^2 / D with m = tr(W^T W) / D, so that only directions count: D ||W^T W||_F^2 / tr(W^T W)^2 - 1,
/// and 0 where W = 0. Its gradient is 4 D / tr^2 W (W^T W - (||W^T W||_F^2 / tr) I). That such a penalty was tried is
/// from Godey & Artzi (arXiv 2603.10145), who give no formula; this one is ours.
Penalty orthogonality_penalty(const at::Tensor& weight);

/// 1 - step_cosine of a micro-batch, step_cosine = S / sqrt(Q E) with g_t = W^T d_t, S = sum ||g_t||^2, Q = sum ||W
/// g_t||^2, E = sum ||d_t||^2. The logit gradients d_t are held constant; with R = sum d_t g_t^T, M = sum g_t g_t^T and
/// A = W^T W the gradient of step_cosine is step_cosine (2 R / S - (W M + R A) / Q). Zero where S = 0. Three products
/// of 2 V D a token and a block of logits. Sums meet over processes. The formula is ours.
Penalty alignment_penalty(const HeadPass& pass);

}  // namespace lmhead
