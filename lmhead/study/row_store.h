// Where the rows of finished runs are kept: one file, or a folder in which studies share the runs that they have in
// common.
#pragma once

#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/base/shared_lines.h"
#include "lmhead/study/run_identity.h"
#include "lmhead/study/run_row.h"

namespace lmhead {

/// The rows of one file, to which other studies may append too. A last line that a kill cut short, or that another
/// process is writing, is no row yet.
class RowFile {
 public:
  /// Reads the file, if there is one. Throws where it cannot be read, and naming the line where one is no row.
  explicit RowFile(const std::filesystem::path& path);

  /// Reads what others have appended since; whether that was anything.
  bool refresh();
  /// Every row of that run, in the order of the file; they stay where they are.
  std::vector<const RunRow*> find_all(const RunIdentity& identity) const;
  /// Makes the file where there is none and cuts off a last line that nobody will finish. Throws where the file cannot
  /// be appended to.
  void prepare_to_append() const { const SharedLines::Lock lock(lines_); }
  /// Adds a row, unless `is_known` says so after a look at what others have appended; it is on the disk when this
  /// returns.
  void append(const RunRow& row, const std::function<bool()>& is_known);
  const std::deque<RunRow>& rows() const { return rows_; }

 private:
  void add(RunRow row);
  SharedLines lines_;
  std::size_t line_count_ = 0;
  std::deque<RunRow> rows_;
  std::multimap<std::string, const RunRow*> places_;  // by configuration hash
};

/// The rows that a study may use.
class RowStore {
 public:
  /// `path` is a file, or a folder (one that is there, or a path that ends with a slash): there every file `*.jsonl` is
  /// read, and rows are appended to `NAME.jsonl`, NAME the study's.
  RowStore(const Study& study, const std::filesystem::path& path);

  /// The row of a finished run as the study may use it: its own before those of other studies, one that holds the
  /// study's outcome before one whose last validation has it. Null where there is none; it stays where it is.
  const RunRow* find(const RunIdentity& identity);
  /// The content hash of the data that a run read, as far as the rows tell where the data is not there: that of the
  /// study's own rows of one of `arms`, those that read the same; where these are all arms there are, else the only one
  /// that rows of this configuration have.
  std::optional<std::string> dataset_of(const std::string& configuration, const std::vector<std::string>& arms) const;
  /// Reads what other studies have appended since; whether that was anything.
  bool refresh();
  /// Throws where rows cannot be kept.
  void prepare_to_append() const { files_.front().prepare_to_append(); }
  /// Keeps the row of a run, unless one that serves as well has come from another study meanwhile.
  void append(const RunRow& row);

 private:
  const std::optional<RunRow>& served(const RunRow& row);

  const Study& study_;
  std::deque<RowFile> files_;                              // the first is appended to
  std::map<const RunRow*, std::optional<RunRow>> served_;  // rows as this study may use them
};

}  // namespace lmhead
