// linear_cross_entropy on the CPU in float32, float64 and bfloat16, tile by tile.
#pragma once

#include "lmhead/kernels/cross_entropy_arguments.h"

namespace lmhead {

/// Whether the tiled kernel takes these arguments.
bool tiled_kernel_takes(const CrossEntropyArguments& arguments);

/// A positive `filter_threshold` skips products as filtered_linear_cross_entropy says. Statistics cost no product where
/// the loss is plain cross-entropy and the hidden gradient is wanted too; one more where it is not; two where the loss
/// has other terms or weights, or the filter is on.
CrossEntropyForward tiled_forward(const CrossEntropyArguments& arguments, const WantedGradients& wanted,
                                  double filter_threshold = 0, WantedStatistics statistics = WantedStatistics::kNone);
CrossEntropyGradients tiled_backward(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                     const at::Tensor& row_sums, const WantedGradients& wanted);

}  // namespace lmhead
