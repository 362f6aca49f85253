#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/base/memory.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/measurement_table.h"
#include "lmhead/cli/model_argument.h"
#include "lmhead/cli/printable_json.h"
#include "lmhead/cli/progress.h"
#include "lmhead/cli/python_program.h"
#include "lmhead/cli/transformers_engine.h"
#include "lmhead/data/token_file.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/measure/measurement.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWho = "measure";
constexpr std::int64_t kMostStepTokens = 32768;  // whose features are kept to take logit steps from

/// One model to measure: where it lies, and what to call it.
struct Entry {
  fs::path path;
  std::string name;
};

std::vector<Entry> entries_of(const MeasureRequest& request) {
  const CheckpointChoice choice = request.all_checkpoints   ? CheckpointChoice::kAll
                                  : request.best_checkpoint ? CheckpointChoice::kBest
                                                            : CheckpointChoice::kNewest;
  std::vector<Entry> entries;
  for (const std::string& given : request.models) {
    const fs::path resolved = resolve_model(given);
    const auto found = find_models(resolved, choice);
    for (const fs::path& path : found)
      entries.push_back({path, path == resolved ? given : given + ":" + path.filename().string()});
  }
  return entries;
}

/// Tokenises texts once for every different tokenizer.
class Texts {
 public:
  explicit Texts(const MeasureRequest& request)
      : files_(request.texts), options_(request.text_options), bos_(request.bos), max_tokens_(request.max_tokens) {}

  MeasuredTokens tokens(const std::string& name, const ModelText& text, std::int64_t vocab_size) {
    require(text.tokenizer || text.is_bytes, kWho, name,
            " must have a tokenizer.json, vocab.json or tokenizer.model beside it for --text, got none: give ids with "
            "--tokens");
    const std::string key = key_of(text);
    const auto [found, is_new] = folders_.try_emplace(key, scratch_.path() / std::to_string(folders_.size()));
    if (is_new) {
      std::vector<std::string> arguments = options_;
      arguments.insert(arguments.end(), {"--out", found->second.string()});
      if (!text.is_bytes) arguments.insert(arguments.end(), {"--tokenizer", text.tokenizer->string()});
      if (max_tokens_ > 0) arguments.insert(arguments.end(), {"--max-tokens", std::to_string(max_tokens_)});
      if (!bos_.empty()) arguments.insert(arguments.end(), {"--bos", bos_});
      if (!bos_.empty() && text.beginning)
        arguments.insert(arguments.end(), {"--bos-id", std::to_string(*text.beginning)});
      arguments.push_back("--");
      arguments.insert(arguments.end(), files_.begin(), files_.end());
      run_python_program("lmhead-tokenize", arguments);
    }
    return open_tokenized_text(found->second, vocab_size);
  }

 private:
  /// Models with the same key have the same ids for a text. Older kinds of tokenizers are several files.
  std::string key_of(const ModelText& text) const {
    if (text.is_bytes) return "";
    if (text.tokenizer->filename() != "tokenizer.json") return text.tokenizer->string();
    const std::string beginning = bos_.empty() || !text.beginning ? "" : std::to_string(*text.beginning);
    return beginning + "\n" + read_file(*text.tokenizer);
  }

  std::vector<std::string> files_, options_;
  std::string bos_;
  std::int64_t max_tokens_;
  ScratchFolder scratch_;
  std::map<std::string, fs::path> folders_;
};

MeasurementOptions options_of(const MeasureRequest& request) {
  MeasurementOptions options{.diagnostics = request.only,
                             .sequence_length = request.sequence_length,
                             .max_tokens = request.max_tokens,
                             .by_document = request.by_document,
                             .float64 = request.float64};
  if (request.sample_tokens > 0) {
    options.diagnostic.gradient_spectrum.tokens = request.sample_tokens;
    options.diagnostic.update_direction.tokens = std::min(request.sample_tokens, kMostStepTokens);
  }
  if (request.memory > 0) options.memory = request.memory;
  if (request.sketch_gib > 0) options.diagnostic.gradient_spectrum.sketch_gib = request.sketch_gib;
  options.diagnostic.head_space.center_weight = request.center_weight;
  return options;
}

/// The tokens to measure a model on; nothing where neither texts nor ids were given.
std::optional<MeasuredTokens> tokens_of(const MeasureRequest& request, Texts& texts, const std::string& name,
                                        const ModelText& text, std::int64_t vocab_size) {
  if (!request.texts.empty()) return texts.tokens(name, text, vocab_size);
  if (request.tokens.empty()) return std::nullopt;
  return open_measured_tokens(request.tokens, vocab_size, text.end_of_document, token_type_named(request.token_type));
}

Json measure_natively(const MeasureRequest& request, const Entry& entry, Texts& texts,
                      const MeasurementProgress& show) {
  const c10::Device device = find_device(request.device, kWho);
  MeasurementOptions options = options_of(request);
  if (request.precision != "float32")
    options.features_type = request.precision == "auto" ? fastest_type(entry.path, device) : at::kBFloat16;
  LoadedModel model = open_model(entry.path, options.features_type, device, [&](const LoadedModel& described) {
    options.diagnostic.head_space.scratch = check_memory(described, options, described.kind == ModelKind::kPretrained);
    return options.diagnostic.head_space.scratch;
  });
  model.name = entry.name;
  if (!request.keep.empty() && model.kind == ModelKind::kPretrained)
    options.kept = std::make_shared<KeptFeatures>(request.keep, entry.path, options.features_type);
  std::optional<MeasuredTokens> tokens;
  if (model.decoder) tokens = tokens_of(request, texts, model.name, model.text, model.head->vocab_size());
  Json figures = measure_model(model, tokens ? &*tokens : nullptr, options, show);
  if (tokens && tokens->beginning) figures["beginning"] = *tokens->beginning;
  return figures;
}

Json measure_through_transformers(const MeasureRequest& request, const Entry& entry, Texts& texts,
                                  const MeasurementProgress& show) {
  require(request.device == "cpu", kWho, "--device must be cpu with --engine transformers, got ", request.device);
  require(request.precision == "float32", kWho, "--precision must be float32 with --engine transformers, got ",
          request.precision);
  require(request.memory == 0, kWho, "--memory must be left out with --engine transformers, got ",
          format_bytes(request.memory));
  require(request.keep.empty(), kWho, "--keep must be left out with --engine transformers, got ", request.keep);
  const ForeignModel foreign = open_foreign_model(entry.path);
  const auto tokens = tokens_of(request, texts, entry.name, foreign.text, foreign.vocab_size);
  require(tokens.has_value(), kWho, "text or tokens must be given to measure ", entry.name, ", got none");
  const std::int64_t length =
      request.sequence_length > 0 ? request.sequence_length : default_sequence_length(foreign.max_position_embeddings);
  const ScratchFolder scratch;
  LoadedModel model = compute_foreign_features(
      foreign, *tokens,
      {.sequence_length = length, .max_tokens = request.max_tokens, .by_document = request.by_document},
      scratch.path());
  model.name = entry.name;
  Json figures = measure_model(model, nullptr, options_of(request), show);
  figures["sequence_length"] = length;
  if (tokens->beginning) figures["beginning"] = *tokens->beginning;
  return figures;
}

Json measure_all(const MeasureRequest& request) {
  const std::vector<Entry> entries = entries_of(request);
  Texts texts(request);
  Json models = Json::array();
  const auto measure = request.engine == "native" ? measure_natively : measure_through_transformers;
  for (std::size_t index = 0; index < entries.size(); ++index) {
    const std::string prefix =
        entries.size() > 1 ? "[" + std::to_string(index + 1) + "/" + std::to_string(entries.size()) + "] " : "";
    MeasurementLine progress(prefix + entries[index].name + "  ");
    models.push_back(
        measure(request, entries[index], texts, [&](const MeasurementState& state) { progress.show(state); }));
  }
  Json result = {{"format", "lmhead-measurement"},
                 {"version", 1},
                 {"lmhead", LMHEAD_VERSION},
                 {"text", request.texts},
                 {"tokens_file", request.tokens.empty() ? Json(nullptr) : Json(request.tokens)},
                 {"max_tokens", request.max_tokens > 0 ? Json(request.max_tokens) : Json(nullptr)},
                 {"by_document", request.by_document || !request.texts.empty()},
                 {"bos", request.bos.empty() ? Json(nullptr) : Json(request.bos)},
                 {"engine", request.engine},
                 {"arithmetic", request.float64 ? "float64" : "as stored, at least float32"},
                 {"models", models}};
  if (!request.text_options.empty()) result["text_options"] = request.text_options;
  return result;
}

}  // namespace

int run_measure(const MeasureRequest& request) {
  const Json measured = measure_all(request);
  const std::string text = measured.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (!request.json.empty()) write_file_atomic(request.json, text);
  if (!request.html.empty()) {
    const ScratchFolder scratch;
    write_file_atomic(scratch.path() / "measurement.json", text);
    run_python_program("lmhead-measurement-report",
                       {(scratch.path() / "measurement.json").string(), "--out", request.html});
  }
  print_measurements(printable(measured["models"]));
  return 0;
}

}  // namespace lmhead
