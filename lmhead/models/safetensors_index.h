// The index of a sharded checkpoint, `model.safetensors.index.json`; apart from the folder so that it is
// fuzzed without torch.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace lmhead {

/// Reads the text of an index: tensor name to the name of its file in the same folder.
///
/// Throws on JSON that is not strict, duplicate keys, and file names that could lead out of the folder.
/// `file` opens the messages. No torch.
std::map<std::string, std::string> parse_safetensors_index(std::string_view text, std::string_view file);

}  // namespace lmhead
