// The folder of one run: its configuration, log, checkpoints and summary.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lmhead/base/content_hash.h"
#include "lmhead/base/files.h"
#include "lmhead/base/folder_lock.h"
#include "lmhead/base/line_log.h"
#include "lmhead/base/options.h"

namespace lmhead {

/// How far a log goes: its bytes up to the end of a line, and their hash. A checkpoint keeps it.
struct LogEnd {
  std::int64_t bytes = 0;
  std::string hash;  // empty: not known
};

inline std::filesystem::path checkpoints_of(const std::filesystem::path& run_folder) {
  return run_folder / "checkpoints";
}

class RunFolder {
 public:
  /// Locks the folder, which is made where there is none, before anything in it is looked at; throws where another
  /// process uses it. Writes `configuration`, or checks that the one in there is equal; the error names the first key
  /// that differs. Where only `completed` makes the one in there equal (an older version wrote fewer keys), it is
  /// replaced. Removes what killed processes left.
  RunFolder(const std::filesystem::path& path, const Json& configuration,
            const std::function<Json(const Json&)>& completed = {});

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return checkpoints_of(path_); }
  const std::string& configuration_hash() const { return configuration_hash_; }
  /// Leaves `text`, by which another process knows that it sees this folder (folder_lock.h, `is_signed`).
  void sign(const std::string& text) const { lock_.sign(text); }

  /// Opens the log to go on after `step`: drops what comes later (steps that are done again, perhaps a cut line of
  /// a kill) and returns the lines of steps 1 to `step`. Throws, naming the line, where one of these is missing or
  /// damaged, and where they are not the bytes that `end` says.
  std::vector<Json> open_log(std::int64_t step, const LogEnd& end = {});
  void append(const Json& line);
  /// Waits until the log would survive a loss of power: before a checkpoint counts on its lines.
  LogEnd sync_log();
  void write_summary(const Json& summary) const;
  /// A run that goes on has none.
  void remove_summary() const;

 private:
  std::filesystem::path path_;
  std::string configuration_hash_;
  FolderLock lock_;
  std::unique_ptr<LineLog> log_;
  std::int64_t log_bytes_ = 0;
  ContentHash log_hash_;
};

/// The summary of a finished run, or nothing where there is none; throws where it cannot be read.
std::optional<Json> read_summary(const std::filesystem::path& run_folder);

/// The lines of a run's log, those of steps 1, 2, 3 and so on. What follows the last line end was cut short by a kill
/// and is left out; any other line that is not its step's, and a log that ends before a finished run did, is an error
/// that names the line.
std::vector<Json> read_log(const std::filesystem::path& run_folder);

/// The dotted path of the first value that differs, empty where the two are equal.
std::string first_difference(const Json& left, const Json& right);

/// A name for a configuration: equal for equal values in equal order.
std::string hash_configuration(const Json& configuration);

}  // namespace lmhead
