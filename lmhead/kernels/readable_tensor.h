// Which tensors a hand-written CPU kernel may read, and which types it knows.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// True for values in the CPU's memory: no other device, no meta tensor, none that Python traces, that a transform of
/// torch.func wraps, or that stands for the negative of what lies in memory.
inline bool is_readable(const at::Tensor& tensor) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet kUnreadable({DispatchKey::Python, DispatchKey::FuncTorchBatched,
                                             DispatchKey::FuncTorchGradWrapper, DispatchKey::Functionalize,
                                             DispatchKey::ZeroTensor, DispatchKey::Negative});
  return tensor.is_cpu() && !tensor.is_meta() && !tensor.key_set().has_any(kUnreadable);
}

/// The types that the CPU kernels of this folder read.
inline bool has_kernel_type(const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16;
}

}  // namespace lmhead
