// What Muon makes of a gradient.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// The nearest semi-orthogonal matrix, roughly: five Newton-Schulz steps of Muon's quintic, in float32.
at::Tensor orthogonalise(const at::Tensor& matrix);

}  // namespace lmhead
