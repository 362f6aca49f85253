// What a user means by MODEL on the command line.
#pragma once

#include <filesystem>
#include <string>

namespace lmhead {

/// The path itself where it is there; else a name on the hub, `NAME`, `OWNER/NAME` or either with `@REVISION`, is
/// fetched and the folder of its files returned. Throws on what can be neither.
std::filesystem::path resolve_model(const std::string& given);

}  // namespace lmhead
