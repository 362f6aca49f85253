#include "lmhead/base/reused_memory.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

namespace lmhead {
namespace {

constexpr std::size_t kSmallest = std::size_t{4} << 20;

/// What may wait: an eighth of the machine's memory, and no more than 2 GiB.
std::size_t most_waiting() {
  static const std::size_t most = [] {
    const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
    const std::size_t all = pages > 0 && page > 0 ? std::size_t(pages) * std::size_t(page) : 0;
    return std::min(all / 8, std::size_t{2} << 30);
  }();
  return most;
}

struct Mapping {
  void* bytes;
  std::size_t size;
};

/// Mappings that wait, the newest last. It is never destroyed: tensors may go after it would.
class Waiting {
 public:
  /// A mapping of `size` bytes to twice that, or nothing.
  Mapping take(std::size_t size) {
    // A lock that is held, maybe by a thread that this process lost in a fork, is not waited for.
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    const auto fits = [&](const Mapping& one) { return one.size >= size && one.size <= 2 * size; };
    const auto found = std::find_if(mappings_.rbegin(), mappings_.rend(), fits);
    if (found == mappings_.rend()) return {};
    const Mapping taken = *found;
    mappings_.erase(std::next(found).base());
    total_ -= taken.size;
    return taken;
  }
  void give(const Mapping& mapping) {
#ifdef MADV_FREE
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock && mapping.size <= most_waiting() && ::madvise(mapping.bytes, mapping.size, MADV_FREE) == 0) {
      mappings_.push_back(mapping);
      total_ += mapping.size;
      for (; total_ > most_waiting(); mappings_.erase(mappings_.begin())) {
        total_ -= mappings_.front().size;
        ::munmap(mappings_.front().bytes, mappings_.front().size);
      }
      return;
    }
#endif
    ::munmap(mapping.bytes, mapping.size);
  }
  void release() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return;
    for (const Mapping& one : mappings_) ::munmap(one.bytes, one.size);
    mappings_.clear();
    total_ = 0;
  }

 private:
  std::mutex mutex_;
  std::vector<Mapping> mappings_;
  std::size_t total_ = 0;
};

Waiting& waiting() {
  static auto* const all = new Waiting;
  return *all;
}

std::atomic<std::int64_t> in_use = 0;
std::atomic<int> refusals = 0;

void give_back(const Mapping& mapping) {
  in_use -= std::int64_t(mapping.size);
  c10::profiledCPUMemoryReporter().Delete(mapping.bytes);
  if (refusals > 0) ::munmap(mapping.bytes, mapping.size);
  else waiting().give(mapping);
}

}  // namespace

void release_reused_memory() { waiting().release(); }

NoReusedMemory::NoReusedMemory() {
  ++refusals;
  release_reused_memory();
}
NoReusedMemory::~NoReusedMemory() { --refusals; }

std::int64_t reused_memory_in_use() { return in_use; }

at::Tensor reused_memory(std::int64_t size, at::ScalarType type) {
  const std::size_t bytes = static_cast<std::size_t>(size) * c10::elementSize(type);
  if (bytes < kSmallest) return at::empty({size}, type);
  Mapping mapping = waiting().take(bytes);
  if (!mapping.bytes) {
    void* fresh = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) return at::empty({size}, type);  // which says what is missing
#ifdef MADV_HUGEPAGE
    ::madvise(fresh, bytes, MADV_HUGEPAGE);  // fewer pages to clear, to mark and to look up
#endif
    mapping = {fresh, bytes};
  }
  in_use += std::int64_t(mapping.size);
  c10::profiledCPUMemoryReporter().New(mapping.bytes, mapping.size);
  return at::from_blob(
      mapping.bytes, {size}, [mapping](void*) { give_back(mapping); }, at::TensorOptions().dtype(type));
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) { library.def("_release_reused_memory() -> ()", release_reused_memory); }

}  // namespace lmhead
