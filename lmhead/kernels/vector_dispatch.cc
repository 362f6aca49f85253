// Chooses the table of row operations for this machine.
#include <ATen/Version.h>

#include <string>

#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead::vector {

namespace baseline {
extern const RowKernels kRowKernels;
}
#ifdef LMHEAD_VECTOR_X86
namespace avx2 {
extern const RowKernels kRowKernels;
}
namespace avx512 {
extern const RowKernels kRowKernels;
}
#endif

const RowKernels& row_kernels() {
  static const RowKernels& chosen = []() -> const RowKernels& {
#ifdef LMHEAD_VECTOR_X86
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") return avx512::kRowKernels;
    if (capability == "AVX2") return avx2::kRowKernels;
#endif
    return baseline::kRowKernels;
  }();
  return chosen;
}

}  // namespace lmhead::vector
