// The windows of a text for another program, which computes their features.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "lmhead/measure/measured_tokens.h"

namespace lmhead {

struct WrittenWindows {
  std::int64_t targets;
  std::optional<double> bytes_per_token;  // UTF-8 bytes of a target on average
};

/// Writes what is left of `reader` as a safetensors file of int64 [N]: `inputs`, `targets`, `positions`, which are 0
/// where a window begins, and `documents` where they are known. Memory: four numbers a token. Throws where there is no
/// target; `text` names the tokens then.
WrittenWindows write_windows(WindowReader& reader, const std::filesystem::path& file,
                             const std::filesystem::path& text);

}  // namespace lmhead
