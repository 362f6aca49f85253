// linear_cross_entropy by ATen operations over chunks of rows, for devices and types without a kernel of their own.
#pragma once

#include "lmhead/kernels/cross_entropy_arguments.h"

namespace lmhead {

/// Memory: a chunk's logits, of at most 64 Mi elements, or `fused_chunk_bytes` where a fused row kernel makes them
/// their own gradient (fused_rows.h), and the statistics with it unless there is a temperature; with several chunks of
/// 16-bit rows a float32 sum of the weight's gradient. Not yet run on a GPU.
CrossEntropyForward chunked_forward(const CrossEntropyArguments& arguments, const WantedGradients& wanted,
                                    WantedStatistics statistics = WantedStatistics::kNone);
CrossEntropyGradients chunked_backward(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                       const at::Tensor& row_sums, const WantedGradients& wanted);

}  // namespace lmhead
