// The arguments of linear_cross_entropy as the operators pass them, and the two ways to compute it.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/kernels/logit_pass.h"

namespace lmhead {

struct CrossEntropyArguments {
  at::Tensor hidden, targets;  // [N, D], int64 [N]
  LinearMap map;
  LinearCrossEntropyOptions options;
};

/// Which gradients are asked for.
struct WantedGradients {
  bool hidden = false, weight = false, bias = false;
  bool any() const { return hidden || weight || bias; }
};

struct CrossEntropyGradients {
  at::Tensor hidden, weight, bias;  // of the type and shape of what they belong to; undefined where not wanted
};

struct CrossEntropyForward {
  at::Tensor loss;                  // 0-dim or [N]
  at::Tensor row_sums;              // [N, 2] float64: largest logit and logsumexp, 0 where the target is ignored
  CrossEntropyGradients gradients;  // for an upstream gradient of one
  FilterReport filter;
  TokenStatistics statistics;  // as far as asked for; ignored rows hold zeros
};

/// The figures of TokenStatistics, in their order.
inline constexpr at::Tensor TokenStatistics::* kTokenStatistics[] = {&TokenStatistics::log_probability,
                                                                     &TokenStatistics::logsumexp,
                                                                     &TokenStatistics::entropy,
                                                                     &TokenStatistics::correct,
                                                                     &TokenStatistics::logit_gradient_square,
                                                                     &TokenStatistics::hidden_gradient};

/// How much of TokenStatistics a forward pass is asked for. `kScores` leaves the gradient's two figures undefined.
enum class WantedStatistics { kNone, kScores, kAll };

/// The tiled CPU kernel: float32, float64, bfloat16. A positive `filter_threshold` skips products as
/// filtered_linear_cross_entropy says. Statistics cost no product where the loss is plain cross-entropy and the hidden
/// gradient is wanted too; one more where it is not; two where the loss has other terms or weights, or the filter is
/// on.
CrossEntropyForward tiled_forward(const CrossEntropyArguments& arguments, const WantedGradients& wanted,
                                  double filter_threshold = 0, WantedStatistics statistics = WantedStatistics::kNone);
CrossEntropyGradients tiled_backward(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                     const at::Tensor& row_sums, const WantedGradients& wanted);

/// Composition of ATen operations over chunks of rows, for every other device and type. Memory: a chunk's logits,
/// of at most 64 Mi elements. Not yet run on a GPU.
CrossEntropyForward chunked_forward(const CrossEntropyArguments& arguments, const WantedGradients& wanted,
                                    WantedStatistics statistics = WantedStatistics::kNone);
CrossEntropyGradients chunked_backward(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                       const at::Tensor& row_sums, const WantedGradients& wanted);

/// Whether the tiled kernel takes these arguments.
bool tiled_kernel_takes(const CrossEntropyArguments& arguments);

/// The type in which losses are returned: float64 for float64 features, else float32.
at::ScalarType loss_type(at::ScalarType hidden_type);

}  // namespace lmhead
