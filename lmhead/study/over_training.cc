#include "lmhead/study/over_training.h"

#include <algorithm>
#include <map>

#include "lmhead/statistics/statistics.h"
#include "lmhead/study/study.h"

namespace lmhead {
namespace {

struct Summary {
  Json mean, low, high;
};

/// Summarises number by number; the shape is that of the first value, and where another differs in it the part is null.
Summary summarise(const std::vector<const Json*>& values) {
  const Json& first = *values.front();
  Summary summary;
  if (first.is_structured()) {
    summary = {Json(first.type()), Json(first.type()), Json(first.type())};
    for (const auto& item : first.items()) {
      std::vector<const Json*> parts;
      for (const Json* value : values) {
        const bool is_there = value->type() == first.type() &&
                              (first.is_object() ? value->contains(item.key()) : value->size() == first.size());
        if (is_there) parts.push_back(first.is_object() ? &(*value)[item.key()] : &(*value)[std::stoul(item.key())]);
      }
      const Summary part = parts.size() == values.size() ? summarise(parts) : Summary{};
      if (first.is_object()) {
        summary.mean[item.key()] = part.mean, summary.low[item.key()] = part.low, summary.high[item.key()] = part.high;
      } else {
        summary.mean.push_back(part.mean), summary.low.push_back(part.low), summary.high.push_back(part.high);
      }
    }
    return summary;
  }
  std::vector<double> numbers;
  for (const Json* value : values)
    if (value->is_number()) numbers.push_back(value->get<double>());
  if (numbers.size() != values.size()) return {};
  summary.mean = mean(numbers);
  if (const auto interval = t_interval(numbers)) summary.low = interval->low, summary.high = interval->high;
  return summary;
}

}  // namespace

Json kept_over_training(const std::vector<Json>& log, const std::string& path) {
  Json kept;
  for (const Json& line : log) {
    const Json* value = find_value(line, path);
    if (!value) continue;
    kept["step"].push_back(line.at("step"));
    kept["value"].push_back(*value);
  }
  return kept;
}

bool is_over_training(const Json& kept) {
  if (!kept.is_object() || !kept.contains("step") || !kept.contains("value")) return false;
  const Json &steps = kept["step"], &values = kept["value"];
  return steps.is_array() && values.is_array() && steps.size() == values.size() &&
         std::ranges::all_of(steps, [](const Json& step) { return step.is_number_integer(); });
}

Json mean_over_training(const std::vector<const RunRow*>& rows) {
  std::map<std::string, std::map<std::int64_t, std::vector<const Json*>>> values;  // by path and step
  for (const RunRow* row : rows) {
    for (const auto& item : row->keep.items()) {
      const Json& kept = item.value();
      if (!is_over_training(kept)) continue;
      for (std::size_t index = 0; index < kept["step"].size(); ++index)
        values[item.key()][kept["step"][index].get<std::int64_t>()].push_back(&kept["value"][index]);
    }
  }
  Json means = Json::object();
  for (const auto& [path, steps] : values)
    for (const auto& [step, of_rows] : steps) {
      if (of_rows.size() != rows.size()) continue;
      const Summary summary = summarise(of_rows);
      Json& curve = means[path];
      curve["step"].push_back(step);
      curve["mean"].push_back(summary.mean), curve["low"].push_back(summary.low), curve["high"].push_back(summary.high);
    }
  return means;
}

}  // namespace lmhead
