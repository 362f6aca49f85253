// Fuzzes the header parser: whatever the bytes, it returns a header whose promises hold or throws
// lmhead::Error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "lmhead/base/error.h"
#include "lmhead/models/safetensors_header.h"

namespace {

/// Stops the fuzzer where a header that was accepted breaks a promise.
void check(bool holds) {
  if (!holds) std::abort();
}

void check_promises(const lmhead::SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::uint64_t end = 0;
  for (const auto& entry : header.entries) {
    check(entry.begin == end && entry.end >= entry.begin && !entry.dtype.empty() && entry.shape.size() <= 64);
    check(header.find(entry.name) == &entry);  // every name once
    for (const auto size : entry.shape) check(size >= 0);
    end = entry.end;
  }
  check(end == data_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto read = [&](std::uint64_t begin, void* bytes, std::size_t count) {
      check(begin <= size && count <= size - begin);
      std::copy_n(data + begin, count, static_cast<std::uint8_t*>(bytes));
    };
    const auto header = lmhead::read_safetensors_header(size, read, "input");
    check_promises(header, size - header.data_start);
  } catch (const lmhead::Error&) {
  }
  // The JSON alone too, so that mutations need not keep the length field right: the first two bytes are the
  // data's size.
  if (size < 2) return 0;
  const std::uint64_t data_bytes = data[0] | data[1] << 8;
  try {
    const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
    check_promises(lmhead::parse_safetensors_json(text, data_bytes, "input"), data_bytes);
  } catch (const lmhead::Error&) {
  }
  return 0;
}
