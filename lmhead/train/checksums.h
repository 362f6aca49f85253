// The hashes of a checkpoint's files, in a file beside them.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace lmhead {

/// Writes `checksums` into a checkpoint's folder: a line a file, its hash (content_hash.h) and its name, as
/// `xxh128sum --check` reads them.
void write_checksums(const std::filesystem::path& checkpoint, const std::map<std::string, std::string>& hash_of);

/// What is wrong with the content of a checkpoint's file: nothing where it has the hash that `checksums` beside it
/// holds, or where there is no `checksums`, as in checkpoints of earlier versions. Reads the whole file.
std::optional<std::string> damage_of(const std::filesystem::path& file);

/// Whether there is a `checksums` and every file that it names has its hash.
bool is_undamaged(const std::filesystem::path& checkpoint);

}  // namespace lmhead
