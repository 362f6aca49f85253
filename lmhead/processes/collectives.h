// PyTorch's functional collectives, called by name: no header of theirs, and no process group object.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace lmhead::collectives {

/// Begins to replace `tensor`, contiguous, by its "sum" or "max" over processes; `wait` for it before it is looked at.
void begin_reduction(const at::Tensor& tensor, const std::string& what, const std::string& group);
/// Begins to sum [P n, ...] over processes, of which each receives its own [n, ...] of P parts.
at::Tensor begin_scattered_sum(const at::Tensor& tensor, std::int64_t size, const std::string& group);
/// Begins to gather: [P n, ...] of every process's [n, ...].
at::Tensor begin_gather(const at::Tensor& tensor, std::int64_t size, const std::string& group);
/// Begins to give all what the process `rank` has; `tensor` is of its shape in each.
at::Tensor begin_broadcast(const at::Tensor& tensor, std::int64_t rank, const std::string& group);
/// Throws what the backend throws.
void wait(const at::Tensor& tensor);

}  // namespace lmhead::collectives
