#include "lmhead/run/trained_model.h"

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/data/dataset.h"
#include "lmhead/data/token_file.h"
#include "lmhead/models/causal_model.h"
#include "lmhead/models/safetensors.h"
#include "lmhead/run/run.h"
#include "lmhead/train/checkpoint.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

template <class Options>
Options read_json_file(const fs::path& file) {
  return read_options<Options>(read_json(file), file.string());
}

fs::path without_trailing_slash(const fs::path& folder) {
  const fs::path whole = fs::absolute(folder).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();
}

/// A run's configuration has the decoder under `model`; a Hugging Face one says `model_type`.
bool is_run(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  if (!fs::is_regular_file(file)) return false;
  const nlohmann::json json = read_foreign_json(file);
  return json.is_object() && json.contains("model") && json["model"].is_object() && !json.contains("model_type");
}

bool is_checkpoint(const fs::path& folder) { return fs::is_regular_file(folder / "state.json"); }

std::int64_t vocab_size_of(const fs::path& weights) {
  const SafetensorsFile file = SafetensorsFile::open(weights);
  constexpr const char* kEmbedding = "model.embed_tokens.weight";
  require(file.contains(kEmbedding), "checkpoint", weights.string(), " must hold ", kEmbedding, ", got none");
  const auto& shape = file.info(kEmbedding).shape;
  require(shape.size() == 2 && shape[0] > 0, "checkpoint", weights.string(), ": ", kEmbedding, " must be [V, D], got ",
          at::IntArrayRef(shape));
  return shape[0];
}

/// What is still known of how a run's ids stand for text.
ModelText text_of(const DataOptions& data, const TrainingState& state, std::int64_t vocab_size) {
  ModelText text;
  if (data.kind != "tokens") return text;
  const auto end_at = [&](std::int64_t id) {
    text.end_of_document = id;
    text.end_tokens = {id};
  };
  if (state.tokenizer_hash == "bytes") {
    text.is_bytes = vocab_size >= 256;
    if (vocab_size > 256) end_at(256);
    return text;
  }
  try {
    const Dataset dataset = open_dataset(data.path, vocab_size, token_type_named(data.token_type));
    if (dataset.tokenizer_hash != state.tokenizer_hash) return text;
    if (dataset.tokenizer && fs::exists(*dataset.tokenizer)) text.tokenizer = dataset.tokenizer;
    if (dataset.end_of_document) end_at(*dataset.end_of_document);
  } catch (const Error&) {
    // Moved or removed since: the model can do without it.
  }
  return text;
}

}  // namespace

bool is_trained_model(const fs::path& folder) { return is_checkpoint(folder) || is_run(folder); }

std::vector<fs::path> find_checkpoints(const fs::path& folder, CheckpointChoice choice) {
  if (is_checkpoint(folder)) return {folder};
  const fs::path all = folder / "checkpoints";
  const std::vector<std::int64_t> steps = checkpoint_steps(all);
  require(!steps.empty(), "run", all.string(), " must hold a checkpoint, got none");
  const CheckpointFolder checkpoints(all, /*keep_last=*/1);
  std::vector<fs::path> chosen;
  if (choice == CheckpointChoice::kNewest) chosen.push_back(checkpoints.path_of(steps.back()));
  if (choice == CheckpointChoice::kBest) {
    // The newest knows: best.json is written after it, and a kill may come between.
    const std::int64_t best = read_training_state(checkpoints.path_of(steps.back())).best_step;
    require(best > 0, "run", all.string(), " must hold a checkpoint after a validation for the best, got none");
    chosen.push_back(checkpoints.path_of(best));
  }
  if (choice == CheckpointChoice::kAll)
    for (const std::int64_t step : steps) chosen.push_back(checkpoints.path_of(step));
  return chosen;
}

LoadedModel open_trained_model(const fs::path& folder) {
  require(is_trained_model(folder), "run", folder.string(),
          " must be the folder of a run or of a checkpoint, got neither a run's config.json nor state.json in it");
  const fs::path checkpoint = find_checkpoints(without_trailing_slash(folder), CheckpointChoice::kNewest).front();
  const fs::path file = checkpoint.parent_path().parent_path() / "config.json";
  require(fs::is_regular_file(file), "run", "the checkpoint ", checkpoint.string(),
          " must lie in checkpoints/ of its run, got no ", file.string());
  const TrainConfiguration train = read_json_file<RunConfiguration>(file).train;
  const auto state = read_training_state(checkpoint);
  const fs::path weights = checkpoint / "model.safetensors";
  const std::int64_t vocab_size = vocab_size_of(weights);
  CausalModel model(train.model, train.head, vocab_size, unset_parameters());
  load_parameters(weights, model.parameters());
  return {.kind = ModelKind::kCheckpoint,
          .name = folder.string(),
          .family = train.head.type(),
          .decoder = std::make_shared<const Decoder>(std::move(model.decoder)),
          .head = std::move(model.head),
          .text = text_of(train.data, state, vocab_size),
          .max_position_embeddings = train.model.max_position_embeddings,
          .sequence_length = train.data.sequence_length,
          .step = state.step,
          .training_tokens = state.tokens};
}

}  // namespace lmhead
