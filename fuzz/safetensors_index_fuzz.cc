// Fuzzes the parser of shard indices: no file name that it accepts leads out of the folder.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "lmhead/base/error.h"
#include "lmhead/models/safetensors_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::string_view kLeadsOut("/\\\0", 3);
  try {
    const auto map = lmhead::parse_safetensors_index({reinterpret_cast<const char*>(data), size}, "input");
    for (const auto& [name, file] : map) {
      if (file.empty() || file[0] == '.' || file.find_first_of(kLeadsOut) != file.npos) std::abort();
    }
  } catch (const lmhead::Error&) {
  }
  return 0;
}
