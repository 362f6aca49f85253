// Where tests of devices run.
#pragma once

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <vector>

#include "tests/support/stand_in_device.h"

namespace lmhead::test {

/// Every device beside the CPU: the stand-in, and a GPU where there is one.
inline std::vector<c10::Device> other_devices() {
  std::vector<c10::Device> devices{stand_in_device()};
  constexpr auto kCuda = c10::DeviceType::CUDA;
  if (c10::impl::hasDeviceGuardImpl(kCuda) && c10::impl::getDeviceGuardImpl(kCuda)->deviceCount() > 0)
    devices.emplace_back(kCuda, 0);
  return devices;
}

}  // namespace lmhead::test
