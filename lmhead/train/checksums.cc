#include "lmhead/train/checksums.h"

#include <algorithm>
#include <sstream>

#include "lmhead/base/content_hash.h"
#include "lmhead/base/files.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChecksums = "checksums";
constexpr std::size_t kDigits = 32;

/// Hashes by name; nothing where a line is none of ours.
std::optional<std::map<std::string, std::string>> read_checksums(const fs::path& file) {
  std::map<std::string, std::string> hash_of;
  std::istringstream lines(read_file(file));
  for (std::string line; std::getline(lines, line);) {
    const bool is_whole = line.size() > kDigits + 2 && line.find_first_not_of("0123456789abcdef") == kDigits &&
                          line.compare(kDigits, 2, "  ") == 0;
    if (!is_whole) return std::nullopt;
    hash_of[line.substr(kDigits + 2)] = line.substr(0, kDigits);
  }
  return hash_of;
}

}  // namespace

void write_checksums(const fs::path& checkpoint, const std::map<std::string, std::string>& hash_of) {
  std::string text;
  for (const auto& [name, hash] : hash_of) text += hash + "  " + name + "\n";
  write_file_atomic(checkpoint / kChecksums, text);
}

std::optional<std::string> damage_of(const fs::path& file) {
  const fs::path checksums = file.parent_path() / kChecksums;
  if (!fs::exists(checksums)) return std::nullopt;
  const auto hash_of = read_checksums(checksums);
  if (!hash_of || !hash_of->contains(file.filename().string()))
    return "must have its hash in checksums beside it, got none: that file is damaged";
  if (!fs::exists(file)) return "must be there, as checksums beside it says, got none";
  const std::string hash = hash_file(file), &written = hash_of->at(file.filename().string());
  if (hash == written) return std::nullopt;
  return "must have the hash " + written + " that checksums beside it holds, got " + hash + ": it is damaged";
}

bool is_undamaged(const fs::path& checkpoint) {
  if (!fs::exists(checkpoint / kChecksums)) return false;
  const auto hash_of = read_checksums(checkpoint / kChecksums);
  return hash_of && !hash_of->empty() && std::none_of(hash_of->begin(), hash_of->end(), [&](const auto& item) {
           return damage_of(checkpoint / item.first).has_value();
         });
}

}  // namespace lmhead
