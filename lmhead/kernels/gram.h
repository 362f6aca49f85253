// Gram matrices in float64 of matrices with many rows.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// Adds rows^T rows to the lower triangle of `sum` [D, D] float64, diagonal included; what lies above is undefined.
/// `rows` [n, D] of any floating type count as the float64 numbers that they are. Sums run over 256 rows at a time, in
/// an order that does not depend on threads. Memory: 256 D float64.
void add_gram(const at::Tensor& rows, const at::Tensor& sum);

/// The same by ATen's products, on any device.
void plain_add_gram(const at::Tensor& rows, const at::Tensor& sum);

}  // namespace lmhead
