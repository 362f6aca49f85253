// Large workspaces that are let go and wanted again at every step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace lmhead {

/// An uninitialised tensor [size] of the CPU whose memory, from 4 MiB on, stays with the process when the tensor goes:
/// the next one of about that size, of any thread, is spared the system's clearing of new pages, which costs as much as
/// a tenth of a fast kernel. What waits is marked as free (MADV_FREE), so the system takes it back when it is short of
/// memory; at most an eighth of the machine's memory waits, and no more than 2 GiB.
at::Tensor reused_memory(std::int64_t size, at::ScalarType type);

/// Gives what waits back to the system.
void release_reused_memory();

/// While there is one, nothing waits, of earlier either: for what must stay within a limit of memory.
class NoReusedMemory {
 public:
  NoReusedMemory();
  ~NoReusedMemory();
  NoReusedMemory(const NoReusedMemory&) = delete;
  NoReusedMemory& operator=(const NoReusedMemory&) = delete;
};

/// Bytes of such tensors that are there now, of 4 MiB and more. PyTorch's profiler sees them as tensors of the CPU.
std::int64_t reused_memory_in_use();

}  // namespace lmhead
