#include "lmhead/study/row_store.h"

#include <algorithm>
#include <set>

#include "lmhead/study/served_row.h"

namespace lmhead {

namespace fs = std::filesystem;

RowFile::RowFile(const fs::path& path) : lines_(path) { refresh(); }

bool RowFile::refresh() {
  const std::vector<std::string> lines = lines_.read_new();
  for (const std::string& line : lines) {
    const std::string who = lines_.path().string() + ":" + std::to_string(++line_count_);
    add(read_row(parse_json(line, who), who));
  }
  return !lines.empty();
}

void RowFile::add(RunRow row) {
  rows_.push_back(std::move(row));
  places_.emplace(rows_.back().configuration, &rows_.back());
}

std::vector<const RunRow*> RowFile::find_all(const RunIdentity& identity) const {
  std::vector<const RunRow*> found;
  const auto [first, last] = places_.equal_range(identity.configuration);
  for (auto place = first; identity.dataset && place != last; ++place)
    if (place->second->dataset == identity.dataset) found.push_back(place->second);
  return found;
}

void RowFile::append(const RunRow& row, const std::function<bool()>& is_known) {
  const SharedLines::Lock lock(lines_);
  refresh();
  if (is_known()) return;
  lines_.append(lock, write_options(row).dump(-1, ' ', false, Json::error_handler_t::replace));
  refresh();
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

const std::optional<RunRow>& RowStore::served(const RunRow& row) {
  const auto known = served_.find(&row);
  return known != served_.end() ? known->second : served_.emplace(&row, served_row(row, study_)).first->second;
}

const RunRow* RowStore::find(const RunIdentity& identity) {
  const RunRow* reread = nullptr;
  for (const RowFile& file : files_)
    for (const RunRow* row : file.find_all(identity)) {
      const std::optional<RunRow>& one = served(*row);
      if (one && holds_outcome(*row, study_.outcome)) return &*one;
      if (one && !reread) reread = &*one;
    }
  return reread;
}

bool RowStore::refresh() {
  bool any = false;
  for (RowFile& file : files_) any |= file.refresh();
  return any;
}

void RowStore::append(const RunRow& row) {
  const RunIdentity identity{.configuration = row.configuration, .dataset = row.dataset};
  files_.front().append(row, [&] { return find(identity) != nullptr; });
}

std::optional<std::string> RowStore::dataset_of(const std::string& configuration,
                                                const std::vector<std::string>& arms) const {
  std::set<std::string> of_configuration;
  for (const RowFile& file : files_)
    for (const RunRow& row : file.rows()) {
      if (!row.dataset) continue;
      if (row.study == study_.name && std::ranges::find(arms, row.arm) != arms.end()) return row.dataset;
      if (row.configuration == configuration) of_configuration.insert(*row.dataset);
    }
  // The configuration does not tell one dataset from another.
  const bool reads_one = arms.size() == study_.arms.size();
  return reads_one && of_configuration.size() == 1 ? std::optional(*of_configuration.begin()) : std::nullopt;
}

}  // namespace lmhead
