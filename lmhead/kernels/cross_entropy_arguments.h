// What every way to compute linear cross-entropy is given and gives back.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

struct CrossEntropyArguments {
  at::Tensor hidden, targets;  // [N, D]; int64 [N], or class probabilities [N, V]
  LinearMap map;
  LinearCrossEntropyOptions options;

  bool has_probabilities() const { return targets.dim() == 2; }
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

/// Whether the gradient of a token's loss is p - y.
bool is_plain_cross_entropy(const CrossEntropyArguments& arguments);

}  // namespace lmhead
