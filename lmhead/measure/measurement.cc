#include "lmhead/measure/measurement.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/models/causal_model.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "measure";
constexpr std::int64_t kDefaultSequence = 1024;
constexpr std::int64_t kFeatureRows = 4096;

Json or_null(const std::optional<std::int64_t>& value) { return value ? Json(*value) : Json(nullptr); }

std::int64_t sequence_length(const LoadedModel& model, std::int64_t asked) {
  const std::int64_t learned = model.decoder->specification().position_embeddings;
  require(asked <= learned || learned == 0, kWho, "--sequence-length must be at most the ", learned, " positions of ",
          model.name, ", got ", asked);
  if (asked > 0) return asked;
  for (const std::int64_t longest : {learned, model.sequence_length, model.max_position_embeddings})
    if (longest > 0) return default_sequence_length(longest);
  return default_sequence_length(0);
}

at::Tensor rows_of(const at::Tensor& tensor, std::int64_t row, std::int64_t rows) {
  return tensor.defined() ? tensor.narrow(0, row, rows) : tensor;
}

void measure_features(const LoadedModel& model, const MeasurementOptions& options, const MeasurementProgress& progress,
                      DiagnosticSet& set) {
  const Features& features = model.features;
  const auto map = model.head->linear_map();
  const c10::Device device = map ? map->weight.device() : features.targets.device();
  std::int64_t count = features.targets.size(0);
  if (options.max_tokens > 0) count = std::min(count, options.max_tokens);
  for (std::int64_t row = 0; row < count; row += kFeatureRows) {
    const std::int64_t rows = std::min(kFeatureRows, count - row);
    const at::Tensor hidden = on_device(features.hidden(row, rows), device);
    const auto there = [&](const at::Tensor& of_rows) { return on_device(rows_of(of_rows, row, rows), device); };
    set.update({options.float64 ? hidden.to(at::kDouble) : hidden, there(features.targets), there(features.documents),
                there(features.positions),
                features.bytes_per_token ? std::optional(*features.bytes_per_token * double(rows)) : std::nullopt});
    progress(row + rows, count);
  }
}

void measure_windows(const LoadedModel& model, const MeasuredTokens& tokens, const MeasurementOptions& options,
                     std::int64_t length, const MeasurementProgress& progress, DiagnosticSet& set) {
  WindowOptions windows{
      .sequence_length = length, .max_tokens = options.max_tokens, .by_document = options.by_document};
  // Where rotary frequencies follow the length, that of a longer window must not count for others of its batch.
  if (!model.decoder->keeps_keys(1, length)) windows.batch_tokens = 1;
  WindowReader reader(tokens, windows);
  const c10::Device device = model.decoder->embedding()->value.device();
  std::int64_t done = 0;
  while (auto batch = reader.next()) {
    move_to(device, {&batch->tokens, &batch->targets, &batch->documents, &batch->positions});
    HeadInput pass = run_decoder(*model.decoder, *model.head, batch->tokens);
    if (batch->documents.defined()) pass.documents = batch->documents.view(batch->tokens.sizes());
    set.update({.hidden = options.float64 ? pass.hidden.to(at::kDouble) : pass.hidden,
                .targets = batch->targets,
                .documents = batch->documents,
                .positions = batch->positions,
                .bytes = batch->bytes,
                .pass = pass});
    done += batch->scored;
    progress(done, reader.most_targets());
  }
  require(done > 0, kWho, "the text must hold two tokens of one document at least, got none in ",
          tokens.ids.path().string());
}

}  // namespace

std::int64_t default_sequence_length(std::int64_t longest) {
  return longest > 0 ? std::min(longest, kDefaultSequence) : kDefaultSequence;
}

Json measure_model(const LoadedModel& model, const MeasuredTokens* tokens, const MeasurementOptions& options,
                   const MeasurementProgress& progress) {
  at::NoGradGuard no_grad;
  require(!model.decoder || tokens, kWho, "text or tokens must be given to measure ", model.name, ", got none");
  Json result = {{"model", model.name},
                 {"kind", to_string(model.kind)},
                 {"family", model.family.empty() ? Json(nullptr) : Json(model.family)},
                 {"quantization", model.quantization.empty() ? Json(nullptr) : Json(model.quantization)},
                 {"step", or_null(model.step)},
                 {"training_tokens", or_null(model.training_tokens)},
                 {"sequence_length", nullptr}};
  auto map = model.head->linear_map();
  require(!options.float64 || map, kWho, "--float64 must be off for ", model.name, ": its head, ", model.family,
          ", is no linear map and computes as it was trained");
  if (map && options.float64) {
    map->weight = map->weight.to(at::kDouble);
    if (map->bias.defined()) map->bias = map->bias.to(at::kDouble);
  }
  DiagnosticSet set = map ? DiagnosticSet(*map, options.diagnostics, options.diagnostic)
                          : DiagnosticSet(model.head, options.diagnostics, options.diagnostic);
  if (model.decoder) {
    const std::int64_t length = sequence_length(model, options.sequence_length);
    result["sequence_length"] = length;
    measure_windows(model, *tokens, options, length, progress, set);
  } else {
    measure_features(model, options, progress, set);
  }
  result.update(set.result());
  return result;
}

}  // namespace lmhead
