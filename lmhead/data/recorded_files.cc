#include "lmhead/data/recorded_files.h"

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/base/input_file.h"
#include "lmhead/base/json.h"
#include "lmhead/base/sha256.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

std::string hash_of(const InputFile& file) {
  Sha256 hash;
  file.read_blocks([&](const void* bytes, std::size_t size) { hash.update(bytes, size); });
  return hash.hex();
}

/// What is known of a file that was found to have the hash.
Json stamp_of(const InputFile& file, const std::string& hash) {
  return {{"sha256", hash}, {"bytes", file.size()}, {"modified", file.modified()}};
}

/// What earlier calls found; nothing where that cannot be read, for whatever reason.
Json read_stamps(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return Json::object();
  try {
    Json json = read_json(path);
    return json.is_object() ? json : Json::object();
  } catch (const Error&) {
    return Json::object();
  }
}

}  // namespace

void require_recorded_files(const Sidecar& sidecar) {
  const fs::path path = sidecar.path.parent_path() / "checked.json";
  Json stamps = read_stamps(path);
  const Json before = stamps;
  for (const SidecarSplit* split : {&sidecar.train, &sidecar.validation}) {
    const InputFile file(split->file);
    const Json stamp = stamp_of(file, split->sha256);
    Json& known = stamps[split->file.filename().string()];
    if (known == stamp) continue;
    const std::string hash = hash_of(file);
    require(hash == split->sha256, "data", split->file.string(),
            " must be the file that dataset.json records, of SHA-256 ", split->sha256, ", got ", hash,
            ": it has changed since, and must be prepared anew or put back");
    known = stamp;
  }
  if (stamps == before) return;
  try {
    write_file_atomic(path, stamps.dump(2) + "\n");
  } catch (const Error&) {  // a folder of somebody else's, or a full disk: the next start reads again
  }
}

}  // namespace lmhead
