#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/cli/commands.h"
#include "lmhead/cli/measurement_table.h"
#include "lmhead/cli/model_argument.h"
#include "lmhead/cli/printable_json.h"
#include "lmhead/cli/progress.h"
#include "lmhead/cli/python_program.h"
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
      : files_(request.texts), options_(request.text_options), max_tokens_(request.max_tokens) {}

  MeasuredTokens tokens(const LoadedModel& model) {
    require(model.text.tokenizer || model.text.is_bytes, kWho, model.name,
            " must have a tokenizer.json beside it for --text, got none: give ids with --tokens");
    const std::string key = model.text.is_bytes ? "" : read_file(*model.text.tokenizer);
    const auto [found, is_new] = folders_.try_emplace(key, scratch_.path() / std::to_string(folders_.size()));
    if (is_new) {
      std::vector<std::string> arguments = options_;
      arguments.insert(arguments.end(), {"--out", found->second.string()});
      if (!model.text.is_bytes) arguments.insert(arguments.end(), {"--tokenizer", model.text.tokenizer->string()});
      if (max_tokens_ > 0) arguments.insert(arguments.end(), {"--max-tokens", std::to_string(max_tokens_)});
      arguments.push_back("--");
      arguments.insert(arguments.end(), files_.begin(), files_.end());
      run_python_program("lmhead-tokenize", arguments);
    }
    return open_tokenized_text(found->second, model.head->vocab_size());
  }

 private:
  std::vector<std::string> files_, options_;
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
  if (request.sketch_gib > 0) options.diagnostic.gradient_spectrum.sketch_gib = request.sketch_gib;
  options.diagnostic.head_space.center_weight = request.center_weight;
  return options;
}

Json measure_all(const MeasureRequest& request) {
  const std::vector<Entry> entries = entries_of(request);
  Texts texts(request);
  Json models = Json::array();
  for (std::size_t index = 0; index < entries.size(); ++index) {
    LoadedModel model = load_model(entries[index].path);
    model.name = entries[index].name;
    std::optional<MeasuredTokens> tokens;
    if (model.decoder && !request.texts.empty()) tokens = texts.tokens(model);
    if (model.decoder && !request.tokens.empty())
      tokens = open_measured_tokens(request.tokens, model.head->vocab_size(), model.text.end_of_document,
                                    token_type_named(request.token_type));
    const std::string prefix =
        entries.size() > 1 ? "[" + std::to_string(index + 1) + "/" + std::to_string(entries.size()) + "] " : "";
    TokenProgress progress(prefix + model.name + "  ");
    models.push_back(measure_model(model, tokens ? &*tokens : nullptr, options_of(request),
                                   [&](std::int64_t done, std::int64_t of) { progress.show(done, of); }));
  }
  Json result = {{"format", "lmhead-measurement"},
                 {"version", 1},
                 {"lmhead", LMHEAD_VERSION},
                 {"text", request.texts},
                 {"tokens_file", request.tokens.empty() ? Json(nullptr) : Json(request.tokens)},
                 {"max_tokens", request.max_tokens > 0 ? Json(request.max_tokens) : Json(nullptr)},
                 {"by_document", request.by_document || !request.texts.empty()},
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
