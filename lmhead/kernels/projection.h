// The projections of a model's body: at::linear, by faster products where there are any.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// Whether products of float32 matrices on the CPU go through row_major_product.h: processors with AVX-512 that MKL,
/// which is what ATen takes, does not use because they are not Intel's. There at::mm reaches less than half of their
/// speed.
bool prefers_row_major_product();

/// left [m, k] right [k, n] in float32 on the CPU, each of them contiguous or the transpose of something contiguous: as
/// at::mm, without derivatives. Sums run over k in pieces of 512, in order, whatever the number of threads. Memory
/// beyond the result: a copy of what has to be turned.
at::Tensor matrix_product(const at::Tensor& left, const at::Tensor& right);

/// input [..., K] weight^T + bias for weight [M, K]; bias [M] may be undefined. Of at::linear's own bits where
/// prefers_row_major_product() is false, of other types and devices, and of fewer than 64 rows.
at::Tensor projection(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor plain_projection(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace lmhead
