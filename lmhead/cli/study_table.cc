#include "lmhead/cli/study_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lmhead/statistics/verdict.h"

namespace lmhead {
namespace {

constexpr std::size_t kColumns = 100;

std::optional<Interval> interval_of(const Json& json) {
  if (!json.is_array() || !json[0].is_number() || !json[1].is_number()) return std::nullopt;
  return Interval{json[0].get<double>(), json[1].get<double>()};
}

/// A figure in a column; a dash where there is none.
std::string cell(int width, const char* pattern, const Json& value) {
  char text[32] = "-";
  if (value.is_number()) std::snprintf(text, sizeof text, pattern, value.get<double>());
  const std::string figure = text;
  return std::string(std::size_t(width) - std::min(std::size_t(width), figure.size()), ' ') + figure;
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

/// Folds at spaces; what follows the first line is indented by four.
std::string folded(const std::string& text) {
  std::string out, line = "    ";
  std::size_t start = 0;
  while (start < text.size()) {
    const std::size_t end = std::min(text.find(' ', start), text.size());
    const std::string word = text.substr(start, end - start);
    if (line.size() + word.size() > kColumns && line.size() > 4) {
      out += line.substr(0, line.size() - 1) + "\n";
      line = "    ";
    }
    line += word + " ";
    start = end + 1;
  }
  return out + line.substr(0, line.size() - 1) + "\n";
}

/// Columns beside the outcome that were measured for some arm.
struct Column {
  const char *title, *key, *pattern;
};
constexpr Column kColumnsOfArms[] = {{"loss", "validation.loss", "%.4f"},
                                     {"bits/byte", "validation.bits_per_byte", "%.4f"},
                                     {"destroyed", "gradient_retention.destroyed_ratio", "%.4f"},
                                     {"null", "gradient_retention.null_destroyed_ratio", "%.4f"},
                                     {"excess", "gradient_retention.destroyed_excess", "%+.4f"}};

std::string arms_table(const Json& statistics) {
  const Json& arms = statistics["arms"];
  const std::string outcome = statistics["outcome"];
  std::size_t width = 4;
  std::vector<Column> columns;
  for (const Json& arm : arms)
    width = std::max(width, arm["arm"].get_ref<const std::string&>().size() + arm["at_an_edge"].size());
  for (const Column& column : kColumnsOfArms)
    if (column.key != outcome &&
        std::any_of(arms.begin(), arms.end(), [&](const Json& arm) { return arm["figures"].contains(column.key); }))
      columns.push_back(column);
  const std::string title = outcome.substr(outcome.rfind('.') + 1);
  const int outcome_width = int(std::max<std::size_t>(10, title.size() + 1));
  std::string text =
      "\n" + padded("arm", width) + " seeds" + std::string(outcome_width - title.size(), ' ') + title + "      s.d.";
  for (const Column& column : columns) text += std::string(10 - std::string(column.title).size(), ' ') + column.title;
  text += "  tokens/s\n";
  for (const Json& arm : arms) {
    const std::string mark(arm["at_an_edge"].size(), '*');
    text += padded(arm["arm"].get<std::string>() + mark, width) + cell(6, "%.0f", arm["seeds"].size()) +
            cell(outcome_width, "%.4f", arm["mean"]) + cell(10, "%.4f", arm["standard_deviation"]);
    for (const Column& column : columns) text += cell(10, column.pattern, arm["figures"].value(column.key, Json()));
    text += cell(10, "%.0f", arm["tokens_per_second"]) + "\n";
    if (arm["diverged"] > 0)
      text += folded("diverged on " + arm["diverged"].dump() + " seeds, which the mean leaves out");
    if (arm["search"].empty()) continue;
    std::string best;
    for (const auto& item : arm["searched"].items())
      best += (best.empty() ? "" : ", ") + item.key() + " = " + item.value().dump();
    for (const Json& key : arm["at_an_edge"])
      best += "; " + key.get<std::string>() + " at an edge of what was searched";
    if (!arm["search_finished"].get<bool>()) best += best.empty() ? "still searched" : "; still searched";
    text += folded(best);
  }
  const std::string unit = statistics["unit"];
  text += outcome + (unit.empty() ? "" : ", " + unit) + ", mean and standard deviation over seeds\n";
  for (const Column& column : columns)
    if (std::string(column.title) == "null")
      text +=
          "destroyed: share of the logit gradient's norm that the head does not pass back, at the last "
          "measured step;\n"
          "null: the same for a random subspace of the head's rank\n";
  return text;
}

std::string comparisons_table(const Json& statistics) {
  const Json& comparisons = statistics["comparisons"];
  if (comparisons.empty()) return "";
  std::size_t width = 0;
  const auto name_of = [](const Json& one) {
    return one["arm"].get<std::string>() + " - " + one["baseline"].get<std::string>();
  };
  for (const Json& one : comparisons) width = std::max(width, name_of(one).size());
  std::string text =
      "\n" + padded("difference", width) + " seeds  mean [95 % interval]            p      Holm    effect\n";
  for (const Json& one : comparisons) {
    const bool known = one.contains("mean_difference") && one["mean_difference"].is_number();
    text += padded(name_of(one), width) + cell(6, "%.0f", one["seeds"].size()) + "  " +
            padded(known ? format_difference(one["mean_difference"].get<double>(), interval_of(one["interval"])) : "-",
                   26) +
            cell(8, "%.4f", one.value("p_value", Json())) + cell(8, "%.4f", one.value("holm_p", Json())) +
            cell(9, "%+.2f", one.value("effect_size", Json())) + "\n";
    std::string words = one["verdict"];
    if (one.contains("source") && one["source"].is_object()) words += "; " + one["source"]["words"].get<std::string>();
    text += folded(words);
  }
  return text + "paired by seed; interval and p by Student's t; effect: Hedges' g of the paired differences\n";
}

/// What several correlations have in common: "final against the figure at step 64, given a, within b".
std::string request_of(const Json& one) {
  std::string text = one["outcome"].get<std::string>() + " against the figure at step " + one["at_step"].dump();
  for (const char* key : {"given", "within"})
    for (std::size_t index = 0; index < one[key].size(); ++index)
      text += (index > 0 ? ", " : std::string(", ") + key + " ") + one[key][index].get<std::string>();
  return text;
}

std::string correlations_table(const Json& statistics) {
  const Json& correlations = statistics["correlations"];
  if (correlations.empty()) return "";
  std::size_t width = 0;
  for (const Json& one : correlations) width = std::max(width, one["predictor"].get_ref<const std::string&>().size());
  std::string text, last;
  for (const Json& one : correlations) {
    const std::string request = request_of(one);
    if (request != last)
      text += "\n" + request + "\n" + padded("predictor", width) +
              " settings     rho   given [95 % interval]          p    Holm\n";
    last = request;
    const auto ends = interval_of(one["partial_interval"]);
    char interval[40] = "-";
    if (ends)
      std::snprintf(interval, sizeof interval, "%+.2f [%.2f, %.2f]", one["partial_rho"].get<double>(), ends->low,
                    ends->high);
    text += padded(one["predictor"].get<std::string>(), width) + cell(9, "%.0f", one["settings"]) +
            cell(8, "%+.2f", one["rho"]) + "   " + padded(interval, 22) + cell(8, "%.4f", one["p_value"]) +
            cell(8, "%.4f", one["holm_p"]) + "\n" + folded(one["verdict"]);
  }
  return text + "Spearman's rho over settings, each the mean of its seeds: plain, and given what is held fixed\n";
}

/// Who trained the runs: "commit a of 3 runs, b of 1".
std::string trainers_line(const Json& runs) {
  if (runs["finished"] == 0) return "";
  if (!runs.contains("commits")) return "no row says which commit and processor trained its run\n";
  std::string text = "\n";
  for (const auto& [key, title] : {std::pair("commits", "commit "), std::pair("processors", "processor ")}) {
    std::string line = title;
    for (const auto& item : runs[key].items()) {
      const std::int64_t count = item.value().get<std::int64_t>();
      line +=
          (line == title ? "" : ", ") + item.key() + " of " + std::to_string(count) + (count == 1 ? " run" : " runs");
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace

std::string study_table(const Json& statistics) {
  return arms_table(statistics) + comparisons_table(statistics) + correlations_table(statistics) +
         trainers_line(statistics["runs"]);
}

}  // namespace lmhead
