// How much memory a device has.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace lmhead {

/// Bytes of memory of `device` in all, whoever holds them, as its allocator in PyTorch says; asked once a process.
/// Nothing of the CPU, and of devices whose allocator does not tell. What is cut by it is cut alike in every run on the
/// same machine, as it would not be by what is free.
std::optional<std::int64_t> whole_memory(c10::Device device);

}  // namespace lmhead
