#include "lmhead/train/batch_feed.h"

#include "lmhead/base/device.h"

namespace lmhead {

Batch on_device(const Batch& batch, c10::Device device) {
  return {on_device(batch.tokens, device), on_device(batch.targets, device)};
}

Batch BatchFeed::make(const Address& address) const {
  return on_device(source_.training_batch(address.first, address.second, share_), device_);
}

Batch BatchFeed::take(std::int64_t step, std::int64_t part) {
  const auto ahead = std::exchange(ahead_, std::nullopt);
  const Address address(step, part);
  return ahead && ahead->first == address ? ahead->second : make(address);
}

void BatchFeed::send_next(std::int64_t step, std::int64_t part) {
  if (device_.is_cpu()) return;
  const bool is_last = part + 1 == source_.options().micro_batches;
  const Address next = is_last ? Address(step + 1, 0) : Address(step, part + 1);
  ahead_.emplace(next, make(next));
}

}  // namespace lmhead
