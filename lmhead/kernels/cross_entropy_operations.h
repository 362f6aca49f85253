// The private dispatcher operations behind linear_cross_entropy: one forward pass, one recomputing backward pass.
#pragma once

#include <array>

#include "lmhead/kernels/cross_entropy_arguments.h"

namespace lmhead {

/// What of the arguments is no tensor, in the two lists that the private operations take.
struct CrossEntropySettings {
  std::array<std::int64_t, 2> choices;  // reduction, ignore_index
  std::array<double, 8> numbers;        // label_smoothing, z_loss, and those of the transform
};
CrossEntropySettings settings_of(const CrossEntropyArguments& arguments);
/// Writes them into `arguments`.
void apply_settings(const CrossEntropySettings& settings, CrossEntropyArguments& arguments);

/// The tensors of the arguments, the optional ones undefined where missing.
using CrossEntropyTensors = std::array<at::Tensor, 7>;
CrossEntropyTensors tensors_of(const CrossEntropyArguments& arguments);
CrossEntropyArguments arguments_of(const CrossEntropyTensors& tensors, const CrossEntropySettings& settings);

/// For hidden, weight and bias.
using Wanted = std::array<bool, 3>;

struct CrossEntropyForwardResults {
  at::Tensor loss, row_sums;            // 0-dim or [N]; [N, 2] float64
  std::array<at::Tensor, 3> gradients;  // for an upstream of one; empty where not wanted
  at::Tensor filter;                    // float64 [3]: tiles seen, tiles skipped, norm of what was skipped
  at::Tensor scores;           // float64 [5, N], the first five figures of TokenStatistics; empty where not wanted
  at::Tensor token_gradients;  // [N, D], the sixth; empty where not wanted
};

/// The first five figures of TokenStatistics as rows of one tensor.
at::Tensor scores_of(const TokenStatistics& statistics);

/// Calls lmhead::_linear_cross_entropy_forward and _backward through the dispatcher.
CrossEntropyForwardResults call_cross_entropy_forward(const CrossEntropyArguments& arguments, Wanted wanted = {},
                                                      double filter_threshold = 0, bool statistics = false);
std::array<at::Tensor, 3> call_cross_entropy_backward(const at::Tensor& upstream,
                                                      const CrossEntropyArguments& arguments,
                                                      const at::Tensor& row_sums, Wanted wanted);

}  // namespace lmhead
