#include "lmhead/train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <sstream>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"

namespace lmhead {

namespace fs = std::filesystem;

RunFolder::RunFolder(const fs::path& path, const Json& configuration)
    : path_(path), configuration_hash_(hash_configuration(configuration)) {
  make_directory(path_);
  const fs::path lock = path_ / ".lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  require(lock_ >= 0, "run", path_.string(), " must be a folder that can be written to");
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(lock_);
    fail("run", path_.string(), " must not be in use, got another process that trains in it");
  }
  try {
    const fs::path file = path_ / "config.json";
    // A start that failed before its first step (a mistyped path) must not claim the folder.
    if (!fs::exists(file) || (read_log(path_).empty() && !fs::exists(checkpoints()))) {
      write_file_atomic(file, configuration.dump(2) + "\n");
      return;
    }
    const Json there = read_json(file);
    const std::string difference = first_difference(there, configuration);
    require(difference.empty(), "run", path_.string(),
            " must hold the same configuration or none, got another value of ", difference,
            " (choose another folder, or remove this one)");
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

RunFolder::~RunFolder() { ::close(lock_); }

std::vector<Json> RunFolder::open_log(std::int64_t step) {
  std::vector<Json> kept;
  std::string text;
  for (Json& line : read_log(path_)) {
    if (line["step"].get<std::int64_t>() > step) break;
    text += line.dump() + "\n";
    kept.push_back(std::move(line));
  }
  write_file_atomic(path_ / "log.jsonl", text);
  log_ = std::make_unique<LineLog>(path_ / "log.jsonl");
  return kept;
}

void RunFolder::write_summary(const Json& summary) const {
  write_file_atomic(path_ / "summary.json", summary.dump(2) + "\n");
}

std::optional<Json> read_summary(const fs::path& run_folder) {
  const fs::path file = run_folder / "summary.json";
  if (!fs::exists(file)) return std::nullopt;
  Json summary = read_json(file);
  require(summary.is_object(), "run", file.string(), " must be an object, got ", summary.type_name());
  return summary;
}

std::vector<Json> read_log(const fs::path& run_folder) {
  std::vector<Json> lines;
  const fs::path file = run_folder / "log.jsonl";
  if (!fs::exists(file)) return lines;
  std::istringstream text(read_file(file));
  for (std::string line; std::getline(text, line);) {
    auto parsed = try_parse_json(line);
    if (!parsed || !parsed->is_object() || !parsed->contains("step") || !(*parsed)["step"].is_number_integer()) break;
    lines.push_back(std::move(*parsed));
  }
  return lines;
}

std::string first_difference(const Json& left, const Json& right) {
  if (left.is_object() && right.is_object()) {
    for (const auto& item : left.items()) {
      const auto other = right.find(item.key());
      if (other == right.end()) return item.key();
      const std::string below = first_difference(item.value(), *other);
      if (!below.empty()) return below == "." ? item.key() : item.key() + "." + below;
    }
    for (const auto& item : right.items())
      if (!left.contains(item.key())) return item.key();
    return "";
  }
  return left == right ? "" : ".";
}

std::string hash_configuration(const Json& configuration) { return hash_text_in_hex(configuration.dump()); }

}  // namespace lmhead
