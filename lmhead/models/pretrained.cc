#include "lmhead/models/pretrained.h"

#include "lmhead/heads/linear.h"
#include "lmhead/models/checkpoint_blocks.h"
#include "lmhead/models/checkpoint_tensors.h"

namespace lmhead {

namespace fs = std::filesystem;

ModelText read_model_text(const fs::path& folder, const HfConfiguration& configuration) {
  constexpr const char* kEnds = "eos_token_id";
  ModelText text{.end_tokens = configuration.integers(kEnds), .adds_special_tokens = true};
  // The later ones are older; of vocab.json the merges stand beside it.
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json"})
    if (!text.tokenizer && fs::is_regular_file(folder / name)) text.tokenizer = folder / name;
  if (const auto beginnings = configuration.integers("bos_token_id"); !beginnings.empty() && beginnings[0] >= 0)
    text.beginning = beginnings[0];
  // Some configurations name several ends; the first one is that of a document.
  if (!text.end_tokens.empty()) text.end_of_document = text.end_tokens.front();
  const fs::path generation = folder / "generation_config.json";
  if (!fs::exists(generation)) return text;
  const auto ends = HfConfiguration::read(generation).integers(kEnds);
  if (!ends.empty()) text.end_tokens = ends;
  return text;
}

const char* to_string(ModelKind kind) {
  return kind == ModelKind::kPretrained ? "pretrained" : kind == ModelKind::kCheckpoint ? "checkpoint" : "features";
}

namespace {

LoadedModel described(const fs::path& folder, const HfConfiguration& configuration) {
  LoadedModel loaded{.kind = ModelKind::kPretrained,
                     .name = folder.string(),
                     .family = configuration.text("model_type"),
                     .text = read_model_text(folder, configuration)};
  if (configuration.has("gguf")) {
    const HfConfiguration source = configuration.object("gguf");
    const std::string main = source.text("quantization"), head = source.text("head_quantization");
    loaded.quantization = main == head ? main : main + ", head " + head;
  }
  if (configuration.has("max_position_embeddings"))
    loaded.max_position_embeddings = configuration.size("max_position_embeddings");
  return loaded;
}

std::shared_ptr<const LmHead> head_of(const FamilyModel& model, CheckpointTensors& checkpoint, const Decoder& decoder) {
  return make_linear_head({.weight = checkpoint.head(decoder.embedding()->value),
                           .transform = {.scale = model.logit_scale, .softcap = model.logit_softcap}});
}

}  // namespace

LoadedModel load_pretrained(const fs::path& folder, at::ScalarType type) {
  const HfConfiguration configuration = HfConfiguration::read(folder / "config.json");
  const FamilyModel model = describe_model(configuration);
  LoadedModel loaded = described(folder, configuration);
  const TensorFolder tensors = TensorFolder::open(folder);
  CheckpointTensors checkpoint(tensors, model, type, type);
  checkpoint.require_memory_for_all();
  const ParameterSource source =
      [&](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape, const Initializer&,
          const std::vector<RowPart>& parts) { return checkpoint.parameter(name, kind, shape, parts); };
  loaded.decoder = std::make_shared<const Decoder>(model.decoder, source);
  loaded.head = head_of(model, checkpoint, *loaded.decoder);
  checkpoint.check_all_used();
  return loaded;
}

LoadedModel open_pretrained(const fs::path& folder, at::ScalarType type, c10::Device device,
                            const BeforeReading& before_reading, at::ScalarType table_type) {
  const HfConfiguration configuration = HfConfiguration::read(folder / "config.json");
  LoadedModel loaded = described(folder, configuration);
  const auto blocks =
      std::make_shared<CheckpointBlocks>(folder, describe_model(configuration), type, table_type, device);
  if (before_reading) {
    loaded.decoder = std::make_shared<const Decoder>(blocks->model().decoder, shapes_alone());
    blocks->tensors().keep_tables_in(before_reading(loaded));
  }
  const auto decoder = std::make_shared<Decoder>(blocks->model().decoder, blocks->parameters());
  blocks->serve(*decoder);
  decoder->read_blocks_from(blocks);
  loaded.decoder = decoder;
  loaded.head = head_of(blocks->model(), blocks->tensors(), *decoder);
  blocks->tensors().check_all_used();
  return loaded;
}

}  // namespace lmhead
