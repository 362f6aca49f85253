// Where the rows of finished runs are kept: one file, or a folder in which studies share the runs that they have in
// common.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lmhead/study/run_row.h"

namespace lmhead {

/// The rows of one file. A last line that a kill cut short, or that another process is writing, is no row yet.
class RowFile {
 public:
  /// Reads the file, if there is one. Throws where it cannot be read.
  explicit RowFile(const std::filesystem::path& path);

  /// Takes a last line that a kill cut short out of the file, for whoever is the only one to append to it.
  void drop_cut_line() const;
  /// Every row of that run.
  std::vector<const Json*> find_all(const RunIdentity& identity) const;
  /// Adds a row; it is on the disk when this returns.
  void append(const Json& row);
  const std::vector<Json>& rows() const { return rows_; }

 private:
  void add(Json row);
  std::filesystem::path path_;
  std::vector<Json> rows_;
  std::multimap<std::string, std::size_t> places_;  // by configuration hash
};

/// Whether a row says all that the study's own row of the same run would: rows of other studies may have another
/// outcome, and lack what `keep` names.
bool serves(const Json& row, const Study& study);

/// The rows that a study may use.
class RowStore {
 public:
  /// `path` is a file, or a folder (one that is there, or a path that ends with a slash): there every file `*.jsonl` is
  /// read, and rows are appended to `NAME.jsonl`, NAME the study's.
  RowStore(const Study& study, const std::filesystem::path& path);

  /// The row of a finished run, the study's own before those of other studies; null where there is none.
  const Json* find(const RunIdentity& identity) const;
  /// The content hash of the data that a run read, as far as the rows tell where the data is not there: that of the
  /// study's own rows of one of `arms`, those that read the same; where these are all arms there are, else the only one
  /// that rows of this configuration have.
  std::optional<std::string> dataset_of(const std::string& configuration, const std::vector<std::string>& arms) const;
  /// Before the first `append`.
  void drop_cut_line() const { files_.front().drop_cut_line(); }
  void append(const Json& row) { files_.front().append(row); }

 private:
  const Study& study_;
  std::vector<RowFile> files_;  // the first is appended to
};

}  // namespace lmhead
