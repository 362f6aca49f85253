#include "lmhead/kernels/huge_pages.h"

#include <ATen/ops/empty.h>

#include <cstdint>

#include "lmhead/kernels/tile_sizes.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lmhead {

at::Tensor empty_in_huge_pages(at::IntArrayRef sizes, at::ScalarType type) {
  at::Tensor buffer = at::empty(sizes, at::TensorOptions(type));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kSmallPage = 4096;
  if (buffer.nbytes() >= tile_sizes::kFewestHugePageBytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(buffer.mutable_data_ptr());
    const std::uintptr_t begin = (address + kSmallPage - 1) / kSmallPage * kSmallPage;
    const std::uintptr_t end = (address + buffer.nbytes()) / kSmallPage * kSmallPage;
    // Advice only: where it cannot be taken, pages stay small.
    if (begin < end) static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
  }
#endif
  return buffer;
}

}  // namespace lmhead
