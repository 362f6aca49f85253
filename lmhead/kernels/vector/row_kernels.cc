// The table of row operations for one instruction set; cmake/vector_kernels.cmake compiles this file once for each.
#include "lmhead/kernels/vector/row_kernels.h"

#include "lmhead/kernels/vector/attention_rows.h"
#include "lmhead/kernels/vector/block_rows.h"
#include "lmhead/kernels/vector/gram_panels.h"
#include "lmhead/kernels/vector/logit_rows.h"
#include "lmhead/kernels/vector/packing.h"

#define LMHEAD_TEXT_OF(name) #name
#define LMHEAD_TEXT(name) LMHEAD_TEXT_OF(name)

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

extern const RowKernels kRowKernels;
const RowKernels kRowKernels = {
    LMHEAD_TEXT(LMHEAD_VECTOR_LEVEL),
    {turn, interleave},
    kGramKernels,
    logit_kernels<float, float>(),
    logit_kernels<double, double>(),
    logit_kernels<Bfloat16, float>(),
    norm_kernels<float, float, float>(),
    norm_kernels<float, Bfloat16, float>(),
    norm_kernels<Bfloat16, Bfloat16, float>(),
    norm_kernels<Bfloat16, float, float>(),
    norm_kernels<double, double, double>(),
    block_kernels<float, float>(),
    block_kernels<double, double>(),
    block_kernels<Bfloat16, float>(),
    attention_kernels<float>(),
    attention_kernels<double>(),
};

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
