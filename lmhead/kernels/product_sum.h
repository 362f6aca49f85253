// Sums of matrix products, which gradients of weights are when rows come in chunks.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// sum += left right in `type`, that of the factors or float32; an undefined `sum` becomes the product. left [m, k],
/// right [k, n], of one type and device. The product accumulates in `sum` itself where the device's ATen can do that;
/// where it cannot, and always on the CPU, 16-bit factors make a product in their own type, [m, n] numbers beside the
/// sum, which is then added.
void add_product(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, at::ScalarType type);

}  // namespace lmhead
