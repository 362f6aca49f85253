// The fused row kernel, where a device has one: liblmhead_cuda.so for CUDA, loaded when the first tensor comes that
// wants it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "lmhead/kernels/cuda/logit_rows.h"

namespace lmhead {

/// Numbers that a task points to: in float32, contiguous, on the device where they are; null where undefined.
class TaskNumbers {
 public:
  explicit TaskNumbers(const at::Tensor& numbers)
      : numbers_(numbers.defined() ? numbers.to(at::kFloat).contiguous() : numbers) {}
  operator const float*() const { return numbers_.defined() ? numbers_.const_data_ptr<float>() : nullptr; }

 private:
  at::Tensor numbers_;
};

/// Bytes of a chunk's logits at most: a 32nd of the device's whole memory, and no less than 256 MiB. Every further
/// chunk reads and writes a sum of the weight's gradient once more, which for few rows takes as long as their product.
std::int64_t fused_chunk_bytes(c10::Device device);
std::int64_t fused_chunk_bytes(std::optional<std::int64_t> whole_memory);

/// The row kernel of a device.
class FusedRows {
 public:
  /// That for `hidden`; nothing for types and devices without one, of which a CUDA without its library is said once.
  static std::optional<FusedRows> of(const at::Tensor& hidden);

  /// How many of the rows of `hidden` [N, D] have their `vocab_size` logits in one chunk: as many as
  /// `fused_chunk_bytes` hold, all chunks but the last alike, none much smaller than the others.
  static std::int64_t rows_per_chunk(const at::Tensor& hidden, std::int64_t vocab_size);

  /// Runs the task on the device of `logits` [n, V], contiguous, from which its first four members are set. Throws
  /// where the device refuses.
  void run(const at::Tensor& logits, LogitRowsTask task) const;

 private:
  explicit FusedRows(LogitRowsLauncher launch) : launch_(launch) {}
  LogitRowsLauncher launch_;
};

/// While this lives `launch` is the row kernel of the CPU and of PyTorch's PrivateUse1 backend, whose tensors have none
/// otherwise: for tests of what the kernel is made of, and of what it is given. Chunks have at most `chunk_bytes`, if
/// that is not 0.
class FusedRowsOnHost {
 public:
  explicit FusedRowsOnHost(LogitRowsLauncher launch, std::int64_t chunk_bytes = 0);
  ~FusedRowsOnHost();
  FusedRowsOnHost(const FusedRowsOnHost&) = delete;
  FusedRowsOnHost& operator=(const FusedRowsOnHost&) = delete;
};

/// Whether liblmhead_cuda.so lies beside this library, and is of its version.
bool has_cuda_rows();

}  // namespace lmhead
