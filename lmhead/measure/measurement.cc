#include "lmhead/measure/measurement.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/reused_memory.h"
#include "lmhead/base/scratch_tensor.h"
#include "lmhead/measure/memory_plan.h"

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

Json measure_features(const LoadedModel& model, const MeasurementOptions& options, const MeasurementProgress& progress,
                      DiagnosticSet& set) {
  const Features& features = model.features;
  const auto map = model.head->linear_map();
  const c10::Device device = map ? map->weight.device() : features.targets.device();
  MeasurementState state{.of = features.targets.size(0)};
  if (options.max_tokens > 0) state.of = std::min(state.of, options.max_tokens);
  const auto tell = [&](const std::string& doing) {
    state.doing = doing;
    if (progress) progress(state);
  };
  while (state.tokens < state.of) {
    const std::int64_t row = state.tokens, rows = std::min(kFeatureRows, state.of - row);
    const at::Tensor hidden = on_device(features.hidden(row, rows), device);
    const auto there = [&](const at::Tensor& of_rows) { return on_device(rows_of(of_rows, row, rows), device); };
    set.update({options.float64 ? hidden.to(at::kDouble) : hidden, there(features.targets), there(features.documents),
                there(features.positions),
                features.bytes_per_token ? std::optional(*features.bytes_per_token * double(rows)) : std::nullopt},
               tell);
    state.tokens += rows;
    state.done = double(state.tokens);
  }
  state.finishing = true;
  return set.result(tell);
}

at::Tensor in_float64(const at::Tensor& weight, const std::optional<std::filesystem::path>& scratch) {
  if (!scratch || !weight.is_cpu()) return weight.to(at::kDouble);
  const at::Tensor wide = scratch_tensor(weight.sizes().vec(), at::kDouble, scratch);
  at::Tensor(wide).copy_(weight);
  return wide;
}

MeasurementShape shape_of(const LoadedModel& model, const MeasurementOptions& options, bool reads_blocks) {
  return {.vocab_size = model.decoder->specification().vocab_size,
          .sequence_length = sequence_length(model, options.sequence_length),
          .block_type = options.features_type,
          .reads_blocks = reads_blocks,
          .head_on_disk = options.diagnostic.head_space.scratch.has_value(),
          .float64 = options.float64,
          .kept_layers = model.head ? std::int64_t(model.head->needs().layers.size()) : 0,
          .diagnostics = options.diagnostics,
          .diagnostic = options.diagnostic};
}

/// The next batches that may go through the layers together, at most `most` tokens unless one alone has more; empty at
/// the end. `held` keeps what did not fit.
std::vector<WindowBatch> next_chunk(WindowReader& reader, std::int64_t most, std::optional<WindowBatch>& held) {
  std::vector<WindowBatch> chunk;
  std::int64_t tokens = 0;
  while (auto batch = held ? std::exchange(held, std::nullopt) : reader.next()) {
    tokens += batch->tokens.numel();
    if (!chunk.empty() && tokens > most) {
      held = std::move(batch);
      break;
    }
    chunk.push_back(std::move(*batch));
  }
  return chunk;
}

/// All tokens of a chunk through one block after another, then its batches through the diagnostics in turn.
class WindowMeasurement {
 public:
  WindowMeasurement(const LoadedModel& model, const MeasurementOptions& options, const MeasurementProgress& progress,
                    DiagnosticSet& set)
      : decoder_(*model.decoder), head_(*model.head), options_(options), progress_(progress), set_(set) {
    state_.layers = std::int64_t(decoder_.specification().layers.size());
  }

  void add(const std::vector<WindowBatch>& chunk) {
    std::vector<at::Tensor> tokens;
    std::int64_t scored = 0;
    for (const WindowBatch& batch : chunk) {
      tokens.push_back(on_device(batch.tokens, decoder_.device()));
      scored += batch.scored;
    }
    const std::int64_t before = state_.tokens;
    const double share = 1.0 / double(state_.layers) / double(chunk.size());
    state_.doing.clear();
    Decoder::BatchesOptions pass{.kept_layers = head_.needs().layers};
    pass.after_batch = [&](std::size_t layer, std::size_t batch) {
      state_.layer = std::int64_t(layer) + 1;
      state_.done = double(before) + double(scored) * share * double(layer * chunk.size() + batch + 1);
      tell();
    };
    if (options_.kept && decoder_.block_source()) go_on(tokens, pass);
    auto features = decoder_.forward_batches(tokens, pass);
    for (std::size_t index = 0; index < chunk.size(); ++index) {
      Decoder::BatchFeatures of_batch = std::exchange(features[index], {});
      update(chunk[index], {.hidden = of_batch.hidden, .tokens = tokens[index], .layers = std::move(of_batch.layers)});
    }
    state_.done = double(state_.tokens);
  }

  Json result() {
    state_.finishing = true;
    return set_.result([this](const std::string& name) { tell(name); });
  }
  std::int64_t tokens() const { return state_.tokens; }
  void expect(std::int64_t tokens) { state_.of = tokens; }

 private:
  /// Has `pass` begin where an earlier measurement was interrupted, and keep what this one has.
  void go_on(const std::vector<at::Tensor>& tokens, Decoder::BatchesOptions& pass) {
    if (auto found = options_.kept->read(tokens)) {
      const std::int64_t width = found->features[0].size(1), hidden_size = decoder_.specification().hidden_size;
      require(found->layers <= std::size_t(state_.layers) && width == hidden_size, kWho,
              "features that were kept must be of at most ", state_.layers, " layers and of width ", hidden_size,
              ", got ", found->layers, " and ", width, ": remove them to begin again");
      pass.layers_done = found->layers;
      pass.features = std::move(found->features);
    }
    pass.after_layer = [this, &tokens, &pass](std::size_t layers, const std::vector<at::Tensor>& features) {
      pass.features.clear();  // which have gone on by now
      options_.kept->write(tokens, layers, features, layers == std::size_t(state_.layers));
    };
  }

  void update(WindowBatch batch, HeadInput pass) {
    move_to(decoder_.device(), {&batch.targets, &batch.documents, &batch.positions});
    if (head_.needs().tokens) pass.documents = documents_of(pass.tokens, std::nullopt);
    if (batch.documents.defined()) pass.documents = batch.documents.view(batch.tokens.sizes());
    set_.update({.hidden = options_.float64 ? pass.hidden.to(at::kDouble) : pass.hidden,
                 .targets = batch.targets,
                 .documents = batch.documents,
                 .positions = batch.positions,
                 .bytes = batch.bytes,
                 .pass = pass},
                [this](const std::string& name) { tell(name); });
    state_.tokens += batch.scored;
  }

  void tell(const std::string& doing = {}) {
    if (!progress_) return;
    state_.doing = doing;
    if (decoder_.block_source()) state_.bytes_read = decoder_.block_source()->bytes_read();
    progress_(state_);
  }

  const Decoder& decoder_;
  const LmHead& head_;
  const MeasurementOptions& options_;
  const MeasurementProgress& progress_;
  DiagnosticSet& set_;
  MeasurementState state_;
};

Json measure_windows(const LoadedModel& model, const MeasuredTokens& tokens, const MeasurementOptions& options,
                     const MeasurementProgress& progress, DiagnosticSet& set) {
  const MeasurementShape shape = shape_of(model, options, model.decoder->block_source() != nullptr);
  const std::int64_t most = chunk_tokens(memory_need(*model.decoder, shape), shape, options.memory);
  WindowOptions windows{.sequence_length = shape.sequence_length,
                        .max_tokens = options.max_tokens,
                        .by_document = options.by_document,
                        .batch_tokens = kBatchTokens};
  // Where rotary frequencies follow the length, that of a longer window must not count for others of its batch.
  if (!model.decoder->keeps_keys(1, shape.sequence_length)) windows.batch_tokens = 1;
  WindowReader reader(tokens, windows);
  WindowMeasurement measurement(model, options, progress, set);
  measurement.expect(reader.most_targets());
  std::optional<WindowBatch> held;
  for (auto chunk = next_chunk(reader, most, held); !chunk.empty(); chunk = next_chunk(reader, most, held))
    measurement.add(chunk);
  require(measurement.tokens() > 0, kWho, "the text must hold two tokens of one document at least, got none in ",
          tokens.ids.path().string());
  Json figures = measurement.result();
  if (options.kept) options.kept->remove();
  return figures;
}

}  // namespace

std::int64_t default_sequence_length(std::int64_t longest) {
  return longest > 0 ? std::min(longest, kDefaultSequence) : kDefaultSequence;
}

std::optional<std::filesystem::path> check_memory(const LoadedModel& model, const MeasurementOptions& options,
                                                  bool reads_blocks) {
  MeasurementShape shape = shape_of(model, options, reads_blocks);
  if (reads_blocks && options.memory) {
    const double in_memory = memory_need(*model.decoder, shape).least;
    shape.head_on_disk = true;
    // Of a small head a tile is no less than the whole.
    shape.head_on_disk = in_memory > *options.memory && memory_need(*model.decoder, shape).least < in_memory;
  }
  chunk_tokens(memory_need(*model.decoder, shape), shape, options.memory);
  return shape.head_on_disk ? std::optional(scratch_directory()) : std::nullopt;
}

Json measure_model(const LoadedModel& model, const MeasuredTokens* tokens, const MeasurementOptions& options,
                   const MeasurementProgress& progress) {
  const NoReusedMemory within_the_limit;
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
    map->weight = in_float64(map->weight, options.diagnostic.head_space.scratch);
    if (map->bias.defined()) map->bias = map->bias.to(at::kDouble);
  }
  DiagnosticSet set = map ? DiagnosticSet(*map, options.diagnostics, options.diagnostic)
                          : DiagnosticSet(model.head, options.diagnostics, options.diagnostic);
  if (model.decoder) {
    result["sequence_length"] = sequence_length(model, options.sequence_length);
    // Not named where it is as it always was, so that documents stay what they were.
    if (options.features_type != at::kFloat) result["precision"] = "bfloat16";
  }
  result.update(model.decoder ? measure_windows(model, *tokens, options, progress, set)
                              : measure_features(model, options, progress, set));
  return result;
}

}  // namespace lmhead
