// Gradients that were formed in the forward pass.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// `gradient`, which was formed for an upstream of one, times `upstream`, 0-dim: in place where the graph is used for
/// the last time, so that nobody has seen it or will again.
at::Tensor scale_unit_gradient(const at::Tensor& gradient, const at::Tensor& upstream);

}  // namespace lmhead
