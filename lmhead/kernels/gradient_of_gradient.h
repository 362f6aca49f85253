// Kernels with a hand-written backward pass say so by name when it is differentiated.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace lmhead {

/// `gradient`, or under create_graph a gradient whose own backward throws naming `who`. `origins` are what the
/// gradient depends on; undefined ones are left out.
at::Tensor refuse_gradient_of_gradient(const char* who, const at::Tensor& gradient,
                                       const std::vector<at::Tensor>& origins);

}  // namespace lmhead
