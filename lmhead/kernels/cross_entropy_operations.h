// The private dispatcher operations behind linear_cross_entropy: one forward pass, one recomputing backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

namespace lmhead {

using OptionalTensor = std::optional<at::Tensor>;
inline OptionalTensor optional_of(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

/// What of the options is no tensor, in the two lists that the private operations take.
struct CrossEntropySettings {
  std::array<std::int64_t, 2> choices;  // reduction, ignore_index
  std::array<double, 4> numbers;        // label_smoothing, z_loss, logit_scale, logit_softcap
};
/// What every operation takes.
struct CrossEntropyTensors {
  at::Tensor hidden, weight, targets;
  OptionalTensor bias, class_weight, token_weight;
};
/// For hidden, weight and bias.
using Wanted = std::array<bool, 3>;

struct CrossEntropyForwardResults {
  at::Tensor loss, row_sums;            // 0-dim or [N]; [N, 2] float64
  std::array<at::Tensor, 3> gradients;  // for an upstream of one; empty where not wanted
  at::Tensor filter;                    // float64 [3]: tiles seen, tiles skipped, norm of what was skipped
  at::Tensor scores;           // float64 [5, N], the first five figures of TokenStatistics; empty where not wanted
  at::Tensor token_gradients;  // [N, D], the sixth; empty where not wanted
};

/// Calls lmhead::_linear_cross_entropy_forward and _backward through the dispatcher.
CrossEntropyForwardResults call_cross_entropy_forward(const CrossEntropyTensors& tensors,
                                                      const CrossEntropySettings& settings, Wanted wanted,
                                                      double filter_threshold = 0, bool statistics = false);
std::array<at::Tensor, 3> call_cross_entropy_backward(const at::Tensor& upstream, const CrossEntropyTensors& tensors,
                                                      const at::Tensor& row_sums, const CrossEntropySettings& settings,
                                                      Wanted wanted);

}  // namespace lmhead
