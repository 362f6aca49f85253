#include "tests/support/stand_in_device.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

namespace lmhead::test {
namespace {

using c10::DataPtr;
using c10::Device;
using c10::IValue;
using c10::Storage;

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kCount = 2;
std::atomic<std::int64_t> waits = 0;

thread_local c10::DeviceIndex current = 0;
Device current_device() { return {kType, current}; }

// No user's memory lies at addresses with the first bit, neither on x86-64 nor on AArch64, which ignores the highest
// eight; the second tells the two devices apart.
constexpr std::uintptr_t kMark = std::uintptr_t(1) << 54, kSecond = std::uintptr_t(1) << 55;
void* marked(void* host, Device device) {
  if (!host) return nullptr;
  const std::uintptr_t mark = kMark | (device.index() == 1 ? kSecond : 0);
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(host) | mark);
}
void* unmarked(const void* device) {
  return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(device) & ~(kMark | kSecond));
}

// ---- processes ----

// As of CUDA: what a process has opened is closed to its forked children.
std::atomic<bool> is_open = false, is_lost = false;

void open_device() {
  TORCH_CHECK(!is_lost, "the device cannot be opened again in a forked process");
  is_open = true;
}

// ---- memory ----

std::atomic<std::int64_t> held = 0, most_held = 0;
std::atomic<std::int64_t> memory_limit = [] {
  const char* given = std::getenv("LMHEAD_STAND_IN_MEMORY");
  return given ? std::atoll(given) : std::int64_t{1} << 62;
}();

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

template <class T>
void delete_as(void* owner) {
  delete static_cast<T*>(owner);
}

class StandInAllocator : public c10::Allocator {
 public:
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

// ---- the same memory, seen from the host and from the device ----

bool is_ours(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kType; }

at::Tensor tensor_over(Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  at::Tensor tensor =
      at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

/// `pointer` to the memory of `owned`, which lives as long.
Storage storage_over(const Storage& owned, void* pointer, Device device, c10::Allocator* of) {
  return {Storage::use_byte_size_t(), owned.nbytes(), DataPtr(pointer, new Storage(owned), &delete_as<Storage>, device),
          of,
          /*resizable=*/true};
}

/// The memory that an operation has made on the host, given to `device`.
DataPtr given_to(Device device, const Storage& made) {
  using Memory = Owned<Storage>;
  void* pointer = marked(made.mutable_data(), device);
  return {pointer, new Memory(made, made.nbytes()), &delete_as<Memory>, device};
}

at::Tensor on_host(const at::Tensor& ours) {
  const Storage& storage = ours.storage();
  return tensor_over(
      storage_over(storage, unmarked(storage.data()), Device(c10::DeviceType::CPU), c10::GetCPUAllocator()),
      c10::DispatchKey::CPU, ours);
}

/// One operation's tensors on both sides.
class Crossing {
 public:
  /// Where results go that belong to no argument.
  void go_to(Device device) { device_ = device; }

  at::Tensor to_host(const at::Tensor& tensor, const c10::OperatorName& operation) {
    if (!tensor.defined()) return tensor;
    if (!is_ours(tensor)) {
      TORCH_CHECK(tensor.dim() == 0, operation.name, " expects all tensors on one device, got ", tensor.device(),
                  " beside one of stand_in");
      return tensor;
    }
    TORCH_CHECK(crossed_.empty() || tensor.device() == crossed_.front().first.device(), operation.name,
                " expects all tensors on one device, got ", tensor.device(), " beside ",
                crossed_.front().first.device());
    go_to(tensor.device());
    crossed_.emplace_back(tensor, on_host(tensor));
    return crossed_.back().second;
  }

  /// What the operation has done to its arguments: where it resized one, memory and sizes are others.
  void carry_changes() {
    for (auto& [ours, host] : crossed_) {
      if (host.storage().data() != unmarked(ours.storage().data())) {
        const Storage& fresh = host.storage();
        ours.storage().unsafeGetStorageImpl()->set_data_ptr(given_to(ours.device(), fresh));
        ours.storage().unsafeGetStorageImpl()->set_nbytes(fresh.nbytes());
      }
      if (host.sizes() != ours.sizes() || host.strides() != ours.strides())
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }

  /// An argument itself, a view of one, or something new.
  at::Tensor to_device(const at::Tensor& result) {
    if (!result.defined()) return result;
    for (const auto& [ours, host] : crossed_) {
      if (result.is_same(host)) return ours;
      if (result.storage().data() && result.storage().data() == host.storage().data())
        return tensor_over(ours.storage(), c10::DispatchKey::PrivateUse1, result);
    }
    const Storage& made = result.storage();
    return tensor_over(
        {Storage::use_byte_size_t(), made.nbytes(), given_to(device_, made), &allocator, /*resizable=*/true},
        c10::DispatchKey::PrivateUse1, result);
  }

 private:
  Device device_ = current_device();
  std::vector<std::pair<at::Tensor, at::Tensor>> crossed_;
};

/// `value` with its tensors as `cross` makes them; a device becomes the CPU.
template <class Cross>
IValue crossed(const IValue& value, const Cross& cross) {
  if (value.isTensor()) return cross(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(cross(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
      list.push_back(tensor ? std::optional(cross(*tensor)) : std::nullopt);
    return list;
  }
  if (value.isDevice()) return Device(c10::DeviceType::CPU);
  return value;
}

// ---- operations ----

std::mutex lacking_mutex;
std::multiset<std::string> lacking = [] {
  std::multiset<std::string> named;
  if (const char* given = std::getenv("LMHEAD_STAND_IN_WITHOUT")) named.insert(given);
  return named;
}();
bool lacks(const std::string& operation) {
  const std::lock_guard lock(lacking_mutex);
  return lacking.contains(operation);
}

/// Those whose results have a size that only the device knows, or are no tensor.
bool waits_for(const std::string& operation) {
  static const std::set<std::string> all = {"aten::_local_scalar_dense", "aten::equal",    "aten::nonzero",
                                            "aten::masked_select",       "aten::_unique2", "aten::unique_dim",
                                            "aten::unique_consecutive"};
  return all.contains(operation);
}

void compute_on_host(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const c10::OperatorName& name = operation.operator_name();
  TORCH_CHECK(!operation.hasTag(at::Tag::nondeterministic_seeded), "nothing is drawn on stand_in, got ", name.name);
  open_device();
  // Only ATen's: an operation of somebody else reads memory in ways that nobody here knows.
  TORCH_CHECK_NOT_IMPLEMENTED(name.name.starts_with("aten::") && !lacks(name.name), "Could not run '", name.name,
                              "' with arguments from the 'PrivateUse1' backend.");
  if (waits_for(name.name)) ++waits;
  Crossing crossing;
  const std::size_t arguments = operation.schema().arguments().size(), results = operation.schema().returns().size();
  for (std::size_t index = stack->size() - arguments; index < stack->size(); ++index) {
    IValue& argument = (*stack)[index];
    if (argument.isDevice() && argument.toDevice().has_index()) crossing.go_to(argument.toDevice());
    argument = crossed(argument, [&](const at::Tensor& tensor) { return crossing.to_host(tensor, name); });
  }
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    operation.callBoxed(stack);
  }
  crossing.carry_changes();
  for (std::size_t index = stack->size() - results; index < stack->size(); ++index)
    (*stack)[index] = crossed((*stack)[index], [&](const at::Tensor& tensor) { return crossing.to_device(tensor); });
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<Device> given, std::optional<bool>) {
  const Device device = given && given->has_index() ? *given : current_device();
  const caffe2::TypeMeta dtype = c10::scalarTypeToTypeMeta(type.value_or(at::kFloat));
  std::size_t elements = 1;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis)
    elements = sizes[axis] == 0 || elements == 0 ? 0 : elements + std::size_t((sizes[axis] - 1) * strides[axis]);
  const std::size_t bytes = elements * dtype.itemsize();
  Storage storage(Storage::use_byte_size_t(), bytes, allocator.allocate_on(device, bytes), &allocator,
                  /*resizable=*/true);
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), dtype);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout> layout,
                 std::optional<Device> device, std::optional<bool> pin, std::optional<at::MemoryFormat>) {
  std::vector<std::int64_t> strides(sizes.size());
  std::int64_t stride = 1;
  for (std::size_t axis = sizes.size(); axis-- > 0; stride *= std::max<std::int64_t>(sizes[axis], 1))
    strides[axis] = stride;
  return empty_strided(sizes, strides, type, layout, device, pin);
}

/// Where ATen keeps zeros without memory for them (in forward mode), ours have memory.
at::Tensor zeros(at::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout> layout,
                 std::optional<Device> device, std::optional<bool> pin) {
  return empty(sizes, type, layout, device, pin, std::nullopt).zero_();
}

/// Between the two sides and within ours.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (!is_ours(to) && !(non_blocking && to.is_pinned())) ++waits;
  at::Tensor host = is_ours(to) ? on_host(to) : to;
  at::AutoDispatchBelowADInplaceOrView guard;
  host.copy_(is_ours(from) ? on_host(from) : from);
  return to;
}
at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// ---- what PyTorch asks of a device ----

class StandInGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kType; }
  Device exchangeDevice(Device device) const override { return {kType, std::exchange(current, device.index())}; }
  Device getDevice() const override { return current_device(); }
  void setDevice(Device device) const override { current = device.index(); }
  void uncheckedSetDevice(Device device) const noexcept override { current = device.index(); }
  c10::Stream getStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return reinterpret_cast<void*>(std::uintptr_t(1 + stream.device_index()));
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    is_open = true;
    return kCount;
  }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    static int any = 0;
    *event = &any;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { ++waits; }
  void synchronizeEvent(void*) const override { ++waits; }
  void synchronizeDevice(c10::DeviceIndex) const override { ++waits; }
};

class StandInHooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kCount; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current = index; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  bool isPinnedPtr(const void* data) const override { return pinned.knows(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  Device getDeviceFromPtr(void* pointer) const override {
    return {kType, c10::DeviceIndex((reinterpret_cast<std::uintptr_t>(pointer) & kSecond) != 0)};
  }
};
StandInHooks hooks;

REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator);
C10_REGISTER_GUARD_IMPL(PrivateUse1, StandInGuard);
[[maybe_unused]] const bool registered = [] {
  c10::register_privateuse1_backend("stand_in");
  at::RegisterPrivateUse1HooksInterface(&hooks);
  ::pthread_atfork(nullptr, nullptr, [] { is_lost = is_open.load(); });
  return true;
}();

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute_on_host>());
}
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) { library.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_efficientzerotensor", &zeros);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
}

}  // namespace

Device stand_in_device(c10::DeviceIndex index) { return {kType, index}; }
std::int64_t stand_in_waits() { return waits; }
void* memory_of_stand_in(const void* pointer) {
  TORCH_CHECK(reinterpret_cast<std::uintptr_t>(pointer) & kMark, "a pointer into the device's memory is expected");
  TORCH_CHECK(((reinterpret_cast<std::uintptr_t>(pointer) & kSecond) != 0) == (current == 1),
              "a pointer into the memory of the current device is expected");
  return unmarked(pointer);
}

std::int64_t most_bytes_on_stand_in(const std::function<void()>& work) {
  const std::int64_t before = held;
  most_held = before;
  work();
  return most_held - before;
}

StandInMemory::StandInMemory(std::int64_t bytes) : before_(memory_limit.exchange(held + bytes)) {}
StandInMemory::~StandInMemory() { memory_limit = before_; }

StandInWithout::StandInWithout(const std::string& operation) : operation_(operation) {
  const std::lock_guard lock(lacking_mutex);
  lacking.insert(operation_);
}
StandInWithout::~StandInWithout() {
  const std::lock_guard lock(lacking_mutex);
  lacking.erase(lacking.find(operation_));
}

}  // namespace lmhead::test
