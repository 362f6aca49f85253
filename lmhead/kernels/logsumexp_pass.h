// What linear_logsumexp computes: sums of rows forwards, gradients from them backwards.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "lmhead/kernels/linear_map.h"

namespace lmhead {

struct LogsumexpArguments {
  at::Tensor hidden;  // [M, D]
  LinearMap map;
  at::Tensor temperature;  // [M] or undefined
};

/// float64 [M, 3]: the largest logit, the logsumexp and, where `with_entropy`, the entropy.
at::Tensor logsumexp_forward(const LogsumexpArguments& arguments, bool with_entropy);

/// The gradients of hidden, weight and bias, undefined where not wanted, for upstream gradients of logsumexp and
/// entropy, [M] each; the entropy's may be undefined.
std::array<at::Tensor, 3> logsumexp_backward(const LogsumexpArguments& arguments, const at::Tensor& of_logsumexp,
                                             const at::Tensor& of_entropy, const at::Tensor& row_sums,
                                             std::array<bool, 3> wanted);

}  // namespace lmhead
