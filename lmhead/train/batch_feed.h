// Training batches on the run's device.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "lmhead/data/batches.h"

namespace lmhead {

/// `batch` on `device`, without waiting for the device.
Batch on_device(const Batch& batch, c10::Device device);

/// Gives the parts of steps in turn, and where the device is not the CPU makes and sends each while the device still
/// computes with the one before.
class BatchFeed {
 public:
  /// Of every part the sequences of `share`.
  BatchFeed(const BatchSource& source, c10::Device device, const Share& share = {})
      : source_(source), device_(device), share_(share) {}

  /// Part `part` of step `step`, both from 0.
  Batch take(std::int64_t step, std::int64_t part);
  /// To be called once the device has its work on that part: sends the part behind it.
  void send_next(std::int64_t step, std::int64_t part);

 private:
  using Address = std::pair<std::int64_t, std::int64_t>;
  Batch make(const Address& address) const;

  const BatchSource& source_;
  c10::Device device_;
  Share share_;
  std::optional<std::pair<Address, Batch>> ahead_;
};

}  // namespace lmhead
