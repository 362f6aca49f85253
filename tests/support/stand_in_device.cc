// What PyTorch asks of a device: how many there are, which is the current one, streams, events, pinned memory.
#include "tests/support/stand_in_device.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "tests/support/stand_in_memory.h"
#include "tests/support/stand_in_operations.h"

namespace lmhead::test {
namespace {

using c10::Device;

class StandInGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kStandIn; }
  Device exchangeDevice(Device device) const override { return {kStandIn, exchange_current(device.index())}; }
  Device getDevice() const override { return current_device(); }
  void setDevice(Device device) const override { exchange_current(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept override { exchange_current(device.index()); }
  c10::Stream getStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return reinterpret_cast<void*>(std::uintptr_t(1 + stream.device_index()));
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    note_opened();
    return kStandIns;
  }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    static int any = 0;
    *event = &any;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { note_wait(); }
  void synchronizeEvent(void*) const override { note_wait(); }
  void synchronizeDevice(c10::DeviceIndex) const override { note_wait(); }
};

class StandInHooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kStandIns; }
  void setCurrentDevice(c10::DeviceIndex index) const override { exchange_current(index); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device().index(); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return exchange_current(index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  Device getDeviceFromPtr(void* pointer) const override { return device_of(pointer); }
};
StandInHooks hooks;

C10_REGISTER_GUARD_IMPL(PrivateUse1, StandInGuard);
[[maybe_unused]] const bool registered = [] {
  c10::register_privateuse1_backend("stand_in");
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

}  // namespace
}  // namespace lmhead::test
