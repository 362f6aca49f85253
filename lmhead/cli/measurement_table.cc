#include "lmhead/cli/measurement_table.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace lmhead {
namespace {

/// A row of the table: where the figure stands, how it is written, and what it is.
struct Row {
  const char* path;
  const char* label;
  const char* pattern;  // of a double; null for text and counts
  const char* note;
};

const std::vector<Row> kRows = {
    {"/family", "family or head", nullptr, ""},
    {"/quantization", "quantization", nullptr, "of the file; measured undone"},
    {"/step", "step", nullptr, ""},
    {"/hidden_size", "hidden_size D", nullptr, ""},
    {"/vocab_size", "vocab_size V", nullptr, ""},
    {"/tokens", "tokens N", nullptr, ""},
    {"/sequence_length", "sequence_length", nullptr, ""},
    {"/quality/loss", "loss", "%.4f", "nats per token"},
    {"/quality/perplexity", "perplexity", "%.5g", ""},
    {"/quality/bits_per_byte", "bits_per_byte", "%.4f", ""},
    {"/quality/top1_accuracy", "top1_accuracy", "%.4f", ""},
    {"/gradient_retention/destroyed_ratio", "destroyed_ratio", "%.6f",
     "share of the logit gradient's norm outside the head"},
    {"/gradient_retention/null_destroyed_ratio", "null_destroyed_ratio", "%.6f",
     "the same for a random subspace of its rank"},
    {"/gradient_retention/destroyed_excess", "destroyed_excess", "%+.6f",
     "the difference: below 0 is better than chance"},
    {"/token_breakdown/standard_error/destroyed_ratio", "  standard error", "%.6f", "over documents"},
    {"/gradient_retention/retained_energy", "retained_energy", "%.6f", "share of the squared norm that is kept"},
    {"/token_breakdown/mean", "  mean over tokens", "%.6f", "the same share of each token, counted once"},
    {"/gradient_retention/visible_cosine", "visible_cosine", "%.6f", ""},
    {"/gradient_retention/step_cosine", "step_cosine", "%.6f", "of the steepest logit step and backpropagation's"},
    {"/gradient_retention/head_rank", "head_rank", nullptr, ""},
    {"/gradient_retention/head_condition", "head_condition", "%.4g", ""},
    {"/local_retention/tokens", "local map: tokens", nullptr, "the first so many, each with a map of its own"},
    {"/local_retention/destroyed_ratio", "  destroyed_ratio", "%.6f",
     "of the logit gradient's norm, outside these maps"},
    {"/local_retention/null_destroyed_ratio", "  null", "%.6f", "the same for random subspaces of their ranks"},
    {"/local_retention/retained_energy", "  retained_energy", "%.6f", "share of the squared norm that is kept"},
    {"/local_retention/mean_rank", "  mean rank", "%.1f", ""},
    {"/gradient_spectrum/tokens", "spectrum: tokens", nullptr, "the first so many"},
    {"/gradient_spectrum/method", "  method", nullptr, ""},
    {"/gradient_spectrum/unresolved_energy", "  unresolved_energy", "%.6f",
     "what the sketch did not see: the width of the bounds"},
    {"/gradient_spectrum/effective_rank", "  effective_rank", "%.1f", ""},
    {"/gradient_spectrum/components_for_norm/0.7", "  for 70 % of norm", nullptr, "components"},
    {"/gradient_spectrum/components_for_norm/0.99", "  for 99 % of norm", nullptr, "components"},
    {"/gradient_spectrum/best_retained_energy", "  best for any head", "%.6f",
     "retained_energy; optimistic, see the next but one"},
    {"/gradient_spectrum/avoidable_energy", "  avoidable_energy", "%+.6f", "that less the head's own"},
    {"/gradient_spectrum/cross_validated_avoidable_energy", "  cross-validated", "%+.6f",
     "the same on tokens not fitted to"},
};

std::string formatted(const Json& value, const char* pattern) {
  if (value.is_string()) return value.get<std::string>();
  if (!pattern || !value.is_number()) return value.dump();
  char text[64];
  std::snprintf(text, sizeof text, pattern, value.get<double>());
  return text;
}

std::string cell(const Json& model, const Row& row) {
  const std::string path = row.path;
  const Json::json_pointer pointer(path);
  if (!model.contains(pointer) || model[pointer].is_null()) return "-";
  // A figure that is known between bounds alone shows both.
  const std::size_t key = path.find('/', 1);
  const Json::json_pointer bounds(path.substr(0, key) + "/bounds" + (key == path.npos ? "" : path.substr(key)));
  if (!model.contains(bounds)) return formatted(model[pointer], row.pattern);
  return formatted(model[bounds][0], row.pattern) + " to " + formatted(model[bounds][1], row.pattern);
}

/// The last part of a path, which tells models apart, cut to its end where it is long.
std::string heading(const std::string& name) {
  std::string text = name;
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  const auto slash = text.find_last_of('/');
  if (slash != std::string::npos) text = text.substr(slash + 1);
  return text.size() > 28 ? "..." + text.substr(text.size() - 25) : text;
}

std::string listed(const Json& names) {
  std::string text;
  for (const Json& name : names) text += (text.empty() ? "" : ", ") + name.get<std::string>();
  return text;
}

}  // namespace

void print_measurements(const Json& models) {
  std::vector<std::size_t> widths;
  std::printf("%-22s", "");
  for (const Json& model : models) {
    const std::string name = heading(model["model"].get<std::string>());
    widths.push_back(std::max<std::size_t>(name.size(), 12));
    for (const Row& row : kRows) widths.back() = std::max(widths.back(), cell(model, row).size());
    std::printf("  %*s", int(widths.back()), name.c_str());
  }
  std::printf("\n");
  for (const Row& row : kRows) {
    std::vector<std::string> cells;
    for (const Json& model : models) cells.push_back(cell(model, row));
    if (std::all_of(cells.begin(), cells.end(), [](const std::string& text) { return text == "-"; })) continue;
    std::printf("%-22s", row.label);
    for (std::size_t index = 0; index < cells.size(); ++index)
      std::printf("  %*s", int(widths[index]), cells[index].c_str());
    std::printf(row.note[0] ? "   %s\n" : "%s\n", row.note);
  }
  for (const Json& model : models)
    if (model.contains("left_out"))
      std::printf("%s: %s left out, since %s\n", heading(model["model"].get<std::string>()).c_str(),
                  listed(model["left_out"]["diagnostics"]).c_str(),
                  model["left_out"]["why"].get<std::string>().c_str());
  std::printf("What each figure means, and how it can mislead: docs/measuring.md\n");
}

}  // namespace lmhead
