// The folder of one run: its configuration, log, checkpoints and summary.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lmhead/base/files.h"
#include "lmhead/base/options.h"

namespace lmhead {

class RunFolder {
 public:
  /// Makes the folder and writes `configuration`, or checks that the one in there is equal; the error names the first
  /// key that differs. Throws where another process uses the folder.
  RunFolder(const std::filesystem::path& path, const Json& configuration);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  const std::string& configuration_hash() const { return configuration_hash_; }

  /// Drops every line of the log after `step` (and a line cut short by a kill), returns the rest and opens the log for
  /// more.
  std::vector<Json> open_log(std::int64_t step);
  void append(const Json& line) { log_->append(line.dump()); }
  void write_summary(const Json& summary) const;

 private:
  std::filesystem::path path_;
  std::string configuration_hash_;
  std::unique_ptr<LineLog> log_;
  int lock_ = -1;
};

/// The summary of a finished run, or nothing where there is none; throws where it cannot be read.
std::optional<Json> read_summary(const std::filesystem::path& run_folder);

/// The lines of a log that are whole; the last one may have been cut short by a kill.
std::vector<Json> read_log(const std::filesystem::path& run_folder);

/// The dotted path of the first value that differs, empty where the two are equal.
std::string first_difference(const Json& left, const Json& right);

/// A name for a configuration: equal for equal values in equal order.
std::string hash_configuration(const Json& configuration);

}  // namespace lmhead
