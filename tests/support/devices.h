// Where tests of devices run.
#pragma once

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <vector>

#include "tests/support/stand_in_device.h"

namespace lmhead::test {

/// Every kind of device beside the CPU: the stand-in, and a GPU where there is one; of several of a kind the last,
/// which is not the current device, so that what forgets to say which it means fails.
inline std::vector<c10::Device> other_devices() {
  std::vector<c10::Device> devices{stand_in_device(1)};
  constexpr auto kCuda = c10::DeviceType::CUDA;
  if (!c10::impl::hasDeviceGuardImpl(kCuda)) return devices;
  const c10::DeviceIndex count = c10::impl::getDeviceGuardImpl(kCuda)->deviceCount();
  if (count > 0) devices.emplace_back(kCuda, c10::DeviceIndex(count - 1));
  return devices;
}

}  // namespace lmhead::test
