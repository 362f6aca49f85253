#include "lmhead/study/row_store.h"

#include <algorithm>
#include <set>
#include <sstream>
#include <string_view>

#include "lmhead/base/files.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

bool is_row(const Json& json) {
  return json.is_object() && !text_at(json, "configuration").empty() && json.contains("outcome") &&
         (json["outcome"].is_number() || json["outcome"].is_null());
}

std::string whole_lines(const std::string& text) {
  const std::size_t last = text.rfind('\n');
  return last == std::string::npos ? "" : text.substr(0, last + 1);
}

}  // namespace

RowFile::RowFile(const fs::path& path) : path_(path) {
  if (!fs::exists(path)) return;
  std::istringstream lines(whole_lines(read_file(path)));
  for (std::string line; std::getline(lines, line);)
    if (Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false); is_row(row)) add(std::move(row));
}

void RowFile::drop_cut_line() const {
  if (!fs::exists(path_)) return;
  const std::string text = read_file(path_), whole = whole_lines(text);
  if (whole.size() < text.size()) write_file_atomic(path_, whole);
}

void RowFile::add(Json row) {
  places_.emplace(text_at(row, "configuration"), rows_.size());
  rows_.push_back(std::move(row));
}

std::vector<const Json*> RowFile::find_all(const RunIdentity& identity) const {
  std::vector<const Json*> found;
  const auto [first, last] = places_.equal_range(identity.configuration);
  for (auto place = first; identity.dataset && place != last; ++place)
    if (text_at(rows_[place->second], "dataset") == *identity.dataset) found.push_back(&rows_[place->second]);
  return found;
}

void RowFile::append(const Json& row) {
  if (path_.has_parent_path()) make_directory(path_.parent_path());
  LineLog log(path_);
  log.append(row.dump());
  log.sync();
  add(row);
}

bool serves(const Json& row, const Study& study) {
  if (text_at(row, "study") == study.name) return true;
  for (const std::string& path : study.keep)
    if (!row.contains("keep") || !row["keep"].contains(path)) return false;
  if (row["outcome"].is_null()) return true;  // a run that diverged did so by any measure
  // Curves hold an outcome beside the loss where the row's study asked for one, and then it must be this study's.
  const bool has_own_outcome = row.contains("curve") && row["curve"].contains("outcome");
  if (has_own_outcome == (study.outcome == "validation.loss")) return false;
  constexpr std::string_view kValidation = "validation.";
  if (!study.outcome.starts_with(kValidation) || !row.contains("final")) return false;
  const Json* value = find_value(row["final"], study.outcome.substr(kValidation.size()));
  return value && *value == row["outcome"];
}

RowStore::RowStore(const Study& study, const fs::path& path) : study_(study) {
  if (path.has_filename() && !fs::is_directory(path)) {
    files_.emplace_back(path);
    return;
  }
  const fs::path own = path / (as_folder_name(study.name) + ".jsonl");
  files_.emplace_back(own);
  std::set<fs::path> others;
  if (fs::is_directory(path))
    for (const auto& entry : fs::directory_iterator(path))
      if (entry.path().extension() == ".jsonl" && entry.path() != own) others.insert(entry.path());
  for (const fs::path& other : others) files_.emplace_back(other);
}

const Json* RowStore::find(const RunIdentity& identity) const {
  for (const RowFile& file : files_)
    for (const Json* row : file.find_all(identity))
      if (serves(*row, study_)) return row;
  return nullptr;
}

std::optional<std::string> RowStore::dataset_of(const std::string& configuration,
                                                const std::vector<std::string>& arms) const {
  std::set<std::string> of_configuration;
  for (const RowFile& file : files_)
    for (const Json& row : file.rows()) {
      const std::string dataset = text_at(row, "dataset");
      if (dataset.empty()) continue;
      if (text_at(row, "study") == study_.name && std::ranges::find(arms, text_at(row, "arm")) != arms.end())
        return dataset;
      if (text_at(row, "configuration") == configuration) of_configuration.insert(dataset);
    }
  // The configuration does not tell one dataset from another.
  const bool reads_one = arms.size() == study_.arms.size();
  return reads_one && of_configuration.size() == 1 ? std::optional(*of_configuration.begin()) : std::nullopt;
}

}  // namespace lmhead
