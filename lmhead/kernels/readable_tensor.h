// Which tensors a hand-written CPU kernel may read.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// True for values in the CPU's memory: no other device, no meta tensor, no tensor that Python traces.
inline bool is_readable(const at::Tensor& tensor) {
  return tensor.is_cpu() && !tensor.is_meta() && !tensor.key_set().has(c10::DispatchKey::Python);
}

}  // namespace lmhead
