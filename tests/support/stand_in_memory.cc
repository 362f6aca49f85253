#include "tests/support/stand_in_memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "tests/support/stand_in_device.h"

namespace lmhead::test {
namespace {

using c10::DataPtr;
using c10::Device;

// No user's memory lies at addresses with the first bit, neither on x86-64 nor on AArch64, which ignores the highest
// eight; the second tells the two devices apart.
constexpr std::uintptr_t kMark = std::uintptr_t(1) << 54, kSecond = std::uintptr_t(1) << 55;

thread_local c10::DeviceIndex current = 0;

}  // namespace

Device stand_in_device(c10::DeviceIndex index) { return {kStandIn, index}; }
Device current_device() { return {kStandIn, current}; }
c10::DeviceIndex exchange_current(c10::DeviceIndex index) { return std::exchange(current, index); }

void* marked(void* host, Device device) {
  if (!host) return nullptr;
  const std::uintptr_t mark = kMark | (device.index() == 1 ? kSecond : 0);
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(host) | mark);
}
void* unmarked(const void* device) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(device) & ~(kMark | kSecond));
}
Device device_of(const void* pointer) {
  return stand_in_device((reinterpret_cast<std::uintptr_t>(pointer) & kSecond) != 0);
}
void* memory_of_stand_in(const void* pointer) {
  TORCH_CHECK(reinterpret_cast<std::uintptr_t>(pointer) & kMark, "a pointer into the device's memory is expected");
  TORCH_CHECK(device_of(pointer) == current_device(), "a pointer into the memory of the current device is expected");
  return unmarked(pointer);
}

// ---- processes ----

namespace {
std::atomic<bool> is_open = false, is_lost = false;
[[maybe_unused]] const bool watches_forks = [] {
  ::pthread_atfork(nullptr, nullptr, [] { is_lost = is_open.load(); });
  return true;
}();
}  // namespace

void open_device() {
  TORCH_CHECK(!is_lost, "the device cannot be opened again in a forked process");
  is_open = true;
}
void note_opened() noexcept { is_open = true; }

// ---- what is held ----

namespace {

std::atomic<std::int64_t> held = 0, most_held = 0;
std::int64_t memory_given(std::int64_t otherwise) {
  const char* given = std::getenv("LMHEAD_STAND_IN_MEMORY");
  return given ? std::atoll(given) : otherwise;
}
std::atomic<std::int64_t> memory_limit = memory_given(std::int64_t{1} << 62);
constexpr std::int64_t kWholeMemory = std::int64_t{8} << 30;  // of each, as it says

/// Counts `bytes` of a device's memory as long as it lives; throws as CUDA's allocator does where there are too few.
class Held {
 public:
  explicit Held(std::size_t bytes) : bytes_(std::int64_t(bytes)) {
    const std::int64_t now = held += bytes_;
    if (now > memory_limit) {
      held -= bytes_;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "stand_in out of memory. Tried to allocate ", bytes_, " bytes");
    }
    for (std::int64_t most = most_held; now > most && !most_held.compare_exchange_weak(most, now);) continue;
  }
  ~Held() { held -= bytes_; }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  std::int64_t bytes_;
};

/// Memory of the host that is a device's, counted.
template <class Memory>
struct Owned {
  Owned(Memory given, std::size_t bytes) : memory(std::move(given)), counted(bytes) {}
  Memory memory;
  Held counted;
};

/// What ATen may ask of a device's allocator; of its statistics nobody asks.
class StandInAllocator : public c10::DeviceAllocator {
 public:
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override { return {}; }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex) override {
    const std::int64_t whole = memory_given(kWholeMemory);
    return {std::size_t(std::max<std::int64_t>(0, whole - held)), std::size_t(whole)};
  }

  DataPtr allocate(std::size_t bytes) override { return allocate_on(current_device(), bytes); }
  DataPtr allocate_on(Device device, std::size_t bytes) {
    open_device();
    using Memory = Owned<DataPtr>;
    auto owner = std::make_unique<Memory>(c10::GetCPUAllocator()->allocate(bytes), bytes);
    void* memory = owner->memory.get();
    if (bytes > 0) std::memset(memory, 0xff, bytes);  // not a number: what reads it before it is written shows
    return {marked(memory, device), owner.release(), &delete_as<Memory>, device};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(unmarked(to), unmarked(from), bytes);
  }
};
StandInAllocator allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator);

/// Host memory that says of itself that it is pinned.
class PinnedAllocator : public c10::Allocator {
 public:
  DataPtr allocate(std::size_t bytes) override {
    void* memory = std::malloc(bytes > 0 ? bytes : 1);
    const std::lock_guard lock(mutex_);
    known_[memory] = bytes;
    return {memory, memory, &release, Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
  bool knows(const void* pointer) const {
    const std::lock_guard lock(mutex_);
    const auto after = known_.upper_bound(const_cast<void*>(pointer));
    if (after == known_.begin()) return false;
    const auto& [begin, bytes] = *std::prev(after);
    return pointer < static_cast<const char*>(begin) + std::max<std::size_t>(bytes, 1);
  }

 private:
  static void release(void* memory);
  mutable std::mutex mutex_;
  std::map<void*, std::size_t> known_;
};
PinnedAllocator pinned;
void PinnedAllocator::release(void* memory) {
  {
    const std::lock_guard lock(pinned.mutex_);
    pinned.known_.erase(memory);
  }
  std::free(memory);
}

}  // namespace

DataPtr allocate_on(Device device, std::size_t bytes) { return allocator.allocate_on(device, bytes); }
DataPtr given_to(Device device, const c10::Storage& made) {
  using Memory = Owned<c10::Storage>;
  void* pointer = marked(made.mutable_data(), device);
  return {pointer, new Memory(made, made.nbytes()), &delete_as<Memory>, device};
}
c10::Allocator* stand_in_allocator() { return &allocator; }
c10::Allocator* pinned_allocator() { return &pinned; }
bool is_pinned(const void* pointer) { return pinned.knows(pointer); }

std::int64_t most_bytes_on_stand_in(const std::function<void()>& work) {
  const std::int64_t before = held;
  most_held = before;
  work();
  return most_held - before;
}

StandInMemory::StandInMemory(std::int64_t bytes) : before_(memory_limit.exchange(held + bytes)) {}
StandInMemory::~StandInMemory() { memory_limit = before_; }

}  // namespace lmhead::test
