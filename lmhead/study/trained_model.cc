#include "lmhead/study/trained_model.h"

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/data/dataset.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

template <class Options>
Options read_json_file(const fs::path& file) {
  return read_options<Options>(parse_json(read_file(file), file.string()), file.string());
}

fs::path without_trailing_slash(const fs::path& folder) {
  const fs::path whole = fs::absolute(folder).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();
}

fs::path checkpoint_of(const fs::path& folder) {
  if (fs::exists(folder / "state.json")) return folder;
  const CheckpointFolder checkpoints(folder / "checkpoints", /*keep_last=*/1);
  const auto step = checkpoints.newest();
  require(step.has_value(), "run", folder.string(), " must hold a checkpoint, got none");
  return checkpoints.path_of(*step);
}

std::int64_t vocab_size_of(const fs::path& weights) {
  const SafetensorsFile file = SafetensorsFile::open(weights);
  const auto& shape = file.info("model.embed_tokens.weight").shape;
  require(shape.size() == 2 && shape[0] > 0, "checkpoint", weights.string(),
          ": model.embed_tokens.weight must be [V, D], got ", at::IntArrayRef(shape));
  return shape[0];
}

}  // namespace

bool is_trained_model(const fs::path& folder) {
  return fs::is_directory(folder / "checkpoints") || fs::exists(folder / "state.json");
}

TrainedModel open_trained_model(const fs::path& folder) {
  require(is_trained_model(folder), "run", folder.string(),
          " must be the folder of a run or of a checkpoint, got neither checkpoints nor state.json in it");
  const fs::path checkpoint = checkpoint_of(without_trailing_slash(folder));
  const auto configuration =
      read_json_file<RunConfiguration>(checkpoint.parent_path().parent_path() / "config.json");
  const fs::path weights = checkpoint / "model.safetensors";
  const TrainConfiguration& train = configuration.train;
  TrainedModel trained{configuration, checkpoint, read_json_file<TrainingState>(checkpoint / "state.json"),
                       CausalModel(train.model, train.head, vocab_size_of(weights), /*seed=*/0)};
  load_parameters(weights, trained.model.parameters());
  return trained;
}

RunText text_of_run(const TrainedModel& trained) {
  const DataOptions& data = trained.configuration.train.data;
  const std::int64_t vocab_size = trained.model.head->vocab_size();
  RunText text;
  if (data.kind != "tokens") return text;
  if (trained.state.tokenizer_hash == "bytes") {
    text.is_bytes = vocab_size >= 256;
    if (vocab_size > 256) text.end_of_document = 256;
    return text;
  }
  try {
    const Dataset dataset = open_dataset(data.path, vocab_size);
    if (dataset.tokenizer_hash != trained.state.tokenizer_hash) return text;
    if (dataset.tokenizer && fs::exists(*dataset.tokenizer)) text.tokenizer = dataset.tokenizer;
    text.end_of_document = dataset.end_of_document;
  } catch (const Error&) {
    // Moved or removed since: the model can do without it.
  }
  return text;
}

}  // namespace lmhead
