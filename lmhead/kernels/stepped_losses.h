// Losses of logits that took a step, without a copy of all of them.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/logit_transform.h"

namespace lmhead {

/// The losses [n] of the products `product` - step `direction`, both [n, V] float64, under `transform`, for `targets`
/// [n]; in float64, without derivatives. On the CPU a row at a time, which is all the memory that it takes beyond the
/// result.
at::Tensor stepped_losses(const at::Tensor& product, const at::Tensor& direction, double step,
                          const at::Tensor& targets, const LogitTransform& transform);
at::Tensor plain_stepped_losses(const at::Tensor& product, const at::Tensor& direction, double step,
                                const at::Tensor& targets, const LogitTransform& transform);

}  // namespace lmhead
