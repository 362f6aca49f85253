#include "lmhead/study/run_row.h"

#include <limits>
#include <string_view>

#include "lmhead/base/error.h"
#include "lmhead/study/run_identity.h"

namespace lmhead {
namespace {

void check_curve(const ValidationCurve& curve, const std::string& who) {
  const std::size_t size = curve.step.size();
  const bool has_other = !curve.outcome.empty();
  require(curve.tokens.size() == size && curve.wall_seconds.size() == size && curve.loss.size() == size &&
              (!has_other || curve.outcome.size() == size),
          who, "curve must hold lists of equal length, got ", size, " steps, ", curve.tokens.size(), " tokens, ",
          curve.wall_seconds.size(), " wall_seconds, ", curve.loss.size(), " losses and ", curve.outcome.size(),
          " outcomes");
}

void check_row(const RunRow& row, const std::string& who) {
  require(row.outcome.has_value() != row.diverged, who, "outcome must be null where diverged is true and nowhere else");
  require(hash_of_values(row.settings) == row.configuration, who, "configuration must be the hash of settings, ",
          hash_of_values(row.settings), ", got \"", row.configuration, '"');
  check_curve(row.curve, who);
  if (row.diverged || row.outcome_path.empty()) return;
  const auto figure = final_figure(row, row.outcome_path);
  require(!figure || figure == row.outcome, who, "outcome must be what final has at ", row.outcome_path,
          ", got another number");
}

}  // namespace

void ValidationCurve::visit_fields(FieldVisitor& visitor) {
  visitor.field("step", step, "optimiser steps done");
  visitor.field("tokens", tokens, "training tokens seen");
  visitor.field("wall_seconds", wall_seconds, "training time");
  visitor.field("loss", loss, "validation loss");
  visitor.field("outcome", outcome, "of every validation, where it is not the loss");
}

void RunRow::visit_fields(FieldVisitor& visitor) {
  visitor.field("study", study, "whose run it was");
  visitor.field("arm", arm, "of that study");
  visitor.field("phase", phase, "what it was run for", {"search", "confirm"});
  visitor.field("seed", seed, "training.seed", at_least(0));
  visitor.field("grid", grid, "the arm's place in the grid");
  visitor.field("searched", searched, "the searched values");
  visitor.field("configuration", configuration, "hash of settings");
  visitor.field("dataset", dataset, "content hash of the data, as the run recorded it");
  visitor.field("settings", settings, "what of the configuration can change a figure and differs from its default");
  visitor.field("outcome_path", outcome_path, "which figure of the run the outcome is");
  visitor.field("outcome", outcome, "that figure; null where the run diverged");
  visitor.field("diverged", diverged, "whether the loss stopped being finite");
  visitor.field("error", error, "why it diverged");
  visitor.field("final", final, "the last validation, whole");
  visitor.group("curve", curve, "the validations");
  visitor.field("observations", observations, "the last that observers said");
  visitor.field("tokens", tokens, "training tokens", at_least(0));
  visitor.field("wall_seconds", wall_seconds, "training time", at_least(0));
  visitor.field("measure_seconds", measure_seconds, "time of observers", at_least(0));
  visitor.field("tokens_per_second", tokens_per_second, "median over steps", at_least(0));
  visitor.field("flops", flops, "training FLOPs", at_least(0));
  visitor.field("threads", threads, "that it ran with", at_least(1));
  visitor.field("version", version, "of lmhead");
  visitor.list("trained_by", trained_by, "the processes that trained it: commit, processor, threads");
  visitor.field("keep", keep, "what the study's keep names");
  visitor.field("observation_curves", observation_curves, "what observers said over training");
}

RunRow read_row(const Json& json, const std::string& who) {
  RunRow row = read_options<RunRow>(json, who);
  for (const char* key : {"study", "arm", "seed", "configuration", "settings", "outcome", "diverged"})
    require(json.contains(key), who, key, " must be there, got nothing");
  for (Json* object : {&row.grid, &row.searched, &row.final, &row.observations, &row.keep, &row.observation_curves})
    if (object->is_null()) *object = Json::object();
  check_row(row, who);
  return row;
}

double outcome_of(const RunRow& row) { return row.outcome.value_or(std::numeric_limits<double>::infinity()); }

std::vector<std::pair<std::string, double>> last_figures(const RunRow& row) {
  std::vector<std::pair<std::string, double>> figures;
  const auto add = [&](const std::string& name, const Json& value) { figures.emplace_back(name, value.get<double>()); };
  flatten_numbers("validation", row.final, add);
  flatten_numbers("", row.observations, add);
  return figures;
}

std::optional<double> final_figure(const RunRow& row, const std::string& outcome_path) {
  constexpr std::string_view kValidation = "validation.";
  if (!outcome_path.starts_with(kValidation)) return std::nullopt;
  const Json* value = find_value(row.final, outcome_path.substr(kValidation.size()));
  return value && value->is_number() ? std::optional(value->get<double>()) : std::nullopt;
}

void flatten_numbers(const std::string& prefix, const Json& json,
                     const std::function<void(const std::string& name, const Json& value)>& visit) {
  for (const auto& item : json.items()) {
    const std::string name = prefix.empty() ? item.key() : prefix + "." + item.key();
    if (item.value().is_object()) flatten_numbers(name, item.value(), visit);
    if (item.value().is_number()) visit(name, item.value());
  }
}

}  // namespace lmhead
