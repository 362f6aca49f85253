// How much memory tensors take at once.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "lmhead/base/reused_memory.h"

namespace lmhead {

/// Stands before libtorch's CPU allocator from its first use on, and counts the bytes of every tensor, those in
/// reused_memory.h too.
class AllocationMeter : public c10::Allocator {
 public:
  /// The most bytes that `work` held at once beyond what was held before it.
  static std::int64_t peak_of(const std::function<void()>& work) {
    AllocationMeter& meter = instance();
    const std::int64_t before = meter.live_ + reused_memory_in_use();
    meter.peak_ = before;  // no tensor is made meanwhile: tests run on one thread
    work();
    return meter.peak_ - before;
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr data = below_->allocate(bytes);  // whose context is the memory itself
    void* memory = data.get();
    const c10::Device device = data.device();
    data.release_context();
    if (memory) {
      const std::lock_guard lock(mutex_);
      bytes_[memory] = std::int64_t(bytes);
      live_ += std::int64_t(bytes);
      peak_ = std::max(peak_, live_ + reused_memory_in_use());
    }
    return {memory, memory, &AllocationMeter::release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &AllocationMeter::release; }
  void copy_data(void* target, const void* source, std::size_t count) const override {
    below_->copy_data(target, source, count);
  }

 private:
  static AllocationMeter& instance() {
    static auto* meter = new AllocationMeter;  // tensors of others may outlive every test
    return *meter;
  }
  AllocationMeter() : below_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, /*priority=*/1); }
  static void release(void* memory) {
    AllocationMeter& meter = instance();
    if (!memory) return;
    {
      const std::lock_guard lock(meter.mutex_);
      const auto found = meter.bytes_.find(memory);
      meter.live_ -= found->second;
      meter.bytes_.erase(found);
    }
    meter.below_->raw_deleter()(memory);
  }

  c10::Allocator* below_;
  std::mutex mutex_;
  std::unordered_map<void*, std::int64_t> bytes_;  // of every tensor that is there
  std::int64_t live_ = 0, peak_ = 0;
};

}  // namespace lmhead
