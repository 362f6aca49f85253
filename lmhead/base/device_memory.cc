#include "lmhead/base/device_memory.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <map>
#include <mutex>

namespace lmhead {
namespace {

std::optional<std::int64_t> ask(c10::Device device) {
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  if (!allocator) return std::nullopt;
  try {
    return static_cast<std::int64_t>(allocator->getMemoryInfo(device.index()).second);
  } catch (const c10::NotImplementedError&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<std::int64_t> whole_memory(c10::Device device) {
  if (device.is_cpu()) return std::nullopt;
  static std::mutex mutex;
  static std::map<std::pair<c10::DeviceType, c10::DeviceIndex>, std::optional<std::int64_t>> known;
  const std::lock_guard lock(mutex);
  const auto [place, is_new] = known.try_emplace({device.type(), device.index()});
  if (is_new) place->second = ask(device);
  return place->second;
}

}  // namespace lmhead
