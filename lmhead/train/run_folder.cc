#include "lmhead/train/run_folder.h"

#include <iterator>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"

namespace lmhead {

namespace fs = std::filesystem;

namespace {

constexpr const char* kConfiguration = "config.json";
constexpr const char* kLog = "log.jsonl";
constexpr const char* kSummary = "summary.json";

/// The line of `step` that begins at `begin`; moves `begin` behind it. Nothing where the text ends within it.
std::optional<Json> take_line(const std::string& text, std::size_t& begin, std::int64_t step, const fs::path& file) {
  const std::size_t end = text.find('\n', begin);
  if (end == std::string::npos) return std::nullopt;
  const std::string line = text.substr(begin, end - begin);
  auto parsed = try_parse_json(line);
  const bool is_its_step = parsed && parsed->is_object() && parsed->contains("step") &&
                           (*parsed)["step"].is_number_integer() && (*parsed)["step"].get<std::int64_t>() == step;
  require(is_its_step, "run", file.string(), ": line ", step, " must be the JSON object of step ", step, ", got ",
          Json(line.substr(0, 60)).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace));
  begin = end + 1;
  return parsed;
}

std::string read_log_text(const fs::path& file) { return fs::exists(file) ? read_file(file) : std::string(); }

}  // namespace

RunFolder::RunFolder(const fs::path& path, const Json& configuration, const std::function<Json(const Json&)>& completed)
    : path_(path), configuration_hash_(hash_configuration(configuration)), lock_(path, "run", "trains") {
  remove_leftovers(path_,
                   [](const std::string& name) { return name == kConfiguration || name == kLog || name == kSummary; });
  const fs::path file = path_ / kConfiguration;
  // A start that failed before its first step (a mistyped path) must not claim the folder.
  if (!fs::exists(file) || (read_log_text(path_ / kLog).empty() && !fs::exists(checkpoints()))) {
    write_file_atomic(file, configuration.dump(2) + "\n");
    return;
  }
  const Json there = read_json(file);
  if (completed && there != configuration && completed(there) == configuration) {
    write_file_atomic(file, configuration.dump(2) + "\n");
    return;
  }
  const std::string difference = first_difference(there, configuration);
  require(difference.empty(), "run", path_.string(), " must hold the same configuration or none, got another value of ",
          difference, " (choose another folder, or remove this one)");
}

std::vector<Json> RunFolder::open_log(std::int64_t step, const LogEnd& end) {
  const fs::path file = path_ / kLog;
  const std::string text = read_log_text(file);
  std::vector<Json> kept;
  std::size_t bytes = 0;
  while (std::ssize(kept) < step) {
    auto line = take_line(text, bytes, std::ssize(kept) + 1, file);
    require(line.has_value(), "run", file.string(), " must have a line for each of the ", step,
            " steps that the newest checkpoint has done, got ", kept.size(), ": its end is lost");
    kept.push_back(std::move(*line));
  }
  log_hash_ = ContentHash();
  log_hash_.update(text.data(), bytes);
  const bool is_known = !end.hash.empty();
  require(!is_known || (end.bytes == std::int64_t(bytes) && end.hash == log_hash_.hex()), "run", file.string(),
          ": lines 1 to ", step, " must be those that the newest checkpoint counts on, got one that was changed");
  if (bytes < text.size()) fs::resize_file(file, bytes);
  log_bytes_ = std::int64_t(bytes);
  log_ = std::make_unique<LineLog>(file);
  return kept;
}

void RunFolder::append(const Json& line) {
  const std::string text = line.dump();
  log_->append(text);
  log_hash_.update(text.data(), text.size());
  log_hash_.update("\n", 1);
  log_bytes_ += std::int64_t(text.size()) + 1;
}

LogEnd RunFolder::sync_log() {
  log_->sync();
  return {log_bytes_, log_hash_.hex()};
}

void RunFolder::remove_summary() const {
  std::error_code error;
  fs::remove(path_ / kSummary, error);
  require(!error, "run", (path_ / kSummary).string(), " must be removable, got: ", error.message());
}

void RunFolder::write_summary(const Json& summary) const {
  write_file_atomic(path_ / kSummary, summary.dump(2) + "\n");
}

std::optional<Json> read_summary(const fs::path& run_folder) {
  const fs::path file = run_folder / kSummary;
  if (!fs::exists(file)) return std::nullopt;
  Json summary = read_json(file);
  require(summary.is_object(), "run", file.string(), " must be an object, got ", summary.type_name());
  return summary;
}

std::vector<Json> read_log(const fs::path& run_folder) {
  const fs::path file = run_folder / kLog;
  const std::string text = read_log_text(file);
  std::vector<Json> lines;
  std::size_t begin = 0;
  while (auto line = take_line(text, begin, std::ssize(lines) + 1, file)) lines.push_back(std::move(*line));
  const auto summary = read_summary(run_folder);
  const Json steps =
      summary && summary->value("state", Json()) == "finished" ? summary->value("steps", Json()) : Json();
  require(!steps.is_number_integer() || steps == std::ssize(lines), "run", file.string(),
          " must have a line for each of the ", steps.dump(), " steps of the finished run, got ", lines.size());
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
