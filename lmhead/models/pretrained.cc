#include "lmhead/models/pretrained.h"

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/heads/linear.h"
#include "lmhead/models/checkpoint_tensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

/// The end tokens that a configuration names; null counts as none.
std::vector<std::int64_t> end_tokens_of(const fs::path& file) {
  std::vector<std::int64_t> ids;
  if (!fs::exists(file)) return ids;
  const Json json = parse_json(read_file(file), file.string());
  const Json ends = json.is_object() ? json.value("eos_token_id", Json()) : Json();
  if (ends.is_null()) return ids;
  for (const Json& id : ends.is_array() ? ends : Json::array({ends})) {
    require(id.is_number_integer(), "checkpoint", file.string(),
            ": eos_token_id must be an integer or several, got something else");
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

ModelText text_of(const fs::path& folder) {
  ModelText text{.adds_special_tokens = true};
  if (fs::is_regular_file(folder / "tokenizer.json")) text.tokenizer = folder / "tokenizer.json";
  const auto ends = end_tokens_of(folder / "config.json");
  // Some configurations name several ends; the first one is that of a document.
  if (!ends.empty()) text.end_of_document = ends.front();
  text.end_tokens = end_tokens_of(folder / "generation_config.json");
  if (text.end_tokens.empty()) text.end_tokens = ends;
  return text;
}

}  // namespace

const char* to_string(ModelKind kind) {
  return kind == ModelKind::kPretrained ? "pretrained" : kind == ModelKind::kCheckpoint ? "checkpoint" : "features";
}

LoadedModel load_pretrained(const fs::path& folder) {
  const HfConfiguration configuration = HfConfiguration::read(folder / "config.json");
  const FamilyModel model = describe_model(configuration);
  LoadedModel loaded{.kind = ModelKind::kPretrained,
                     .name = folder.string(),
                     .family = configuration.text("model_type"),
                     .text = text_of(folder)};
  if (configuration.has("max_position_embeddings"))
    loaded.max_position_embeddings = configuration.size("max_position_embeddings");
  const TensorFolder tensors = TensorFolder::open(folder);
  CheckpointTensors checkpoint(tensors, model);
  const ParameterSource source =
      [&](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape, const Initializer&,
          const std::vector<RowPart>& parts) { return checkpoint.parameter(name, kind, shape, parts); };
  loaded.decoder = std::make_shared<const Decoder>(model.decoder, source);
  loaded.head = make_linear_head(
      {.weight = checkpoint.head(loaded.decoder->embedding()->value), .logit_softcap = model.logit_softcap});
  checkpoint.check_all_used();
  return loaded;
}

}  // namespace lmhead
