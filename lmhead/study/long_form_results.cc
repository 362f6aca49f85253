#include "lmhead/study/long_form_results.h"

#include <map>

#include "lmhead/base/error.h"
#include "lmhead/train/run_folder.h"

namespace lmhead {
namespace {

std::string lines_of(const Study& study, const StudyRun& run, const std::filesystem::path& folder) {
  std::string text, arm = run.arm_name;
  if (run.phase == RunPhase::kSearch)
    for (const auto& [path, value] : run.searched) arm += " " + path + "=" + value.dump();
  const auto add = [&](const Json& at, const std::string& metric, const Json& value) {
    text += Json{{"study", study.name}, {"arm", arm},         {"seed", run.seed},
                 {"run", run.folder},   {"step", at["step"]}, {"tokens", at["tokens"]},
                 {"metric", metric},    {"value", value},     {"unit", unit_of(metric)}}
                .dump() +
            "\n";
  };
  Json last;
  for (const Json& line : read_log(folder)) {
    if (!line.contains("step") || !line.contains("tokens")) continue;
    for (const auto& item : line.items())
      if (item.value().is_object())
        flatten_numbers(item.key(), item.value(), [&](const auto& name, const Json& value) { add(line, name, value); });
    last = line;
  }
  const auto summary = read_summary(folder);
  if (!summary || last.is_null()) return text;
  for (const char* key : {"wall_seconds", "measure_seconds", "tokens_per_second", "peak_memory_bytes", "parameters",
                          "parameters_head", "parameters_body"})
    if (summary->contains(key) && (*summary)[key].is_number()) add(last, key, (*summary)[key]);
  return text;
}

}  // namespace

std::string unit_of(const std::string& metric) {
  static const std::map<std::string, std::string> units = {
      {"loss", "nats/token"},        {"bits_per_byte", "bits/byte"}, {"tokens_per_second", "tokens/s"},
      {"wall_seconds", "s"},         {"measure_seconds", "s"},       {"peak_memory_bytes", "bytes"},
      {"tokens", "tokens"},          {"parameters", "numbers"},      {"parameters_head", "numbers"},
      {"parameters_body", "numbers"}};
  const auto found = units.find(metric.substr(metric.rfind('.') + 1));
  return found == units.end() ? "" : found->second;
}

void write_long_form_results(StudyProgress& progress,
                             const std::function<void(const StudyRun& run, const std::string& error)>& on_damage) {
  std::string text;
  for (const StudyRun& run : progress.plan().runs) try {
      text += lines_of(progress.study(), run, progress.folder() / run.folder);
    } catch (const Error& error) {
      on_damage(run, error.what());
    }
  write_file_atomic(progress.folder() / "results.jsonl", text);
}

}  // namespace lmhead
