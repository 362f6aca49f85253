#include "lmhead/models/pretrained.h"

#include "lmhead/models/checkpoint_tensors.h"

namespace lmhead {

PretrainedModel load_pretrained(const std::filesystem::path& folder) {
  const HfConfiguration configuration = HfConfiguration::read(folder / "config.json");
  const FamilyModel model = describe_model(configuration);
  const TensorFolder tensors = TensorFolder::open(folder);
  CheckpointTensors checkpoint(tensors, model);
  const ParameterSource source =
      [&](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape, const Initializer&,
          const std::vector<RowPart>& parts) { return checkpoint.parameter(name, kind, shape, parts); };
  PretrainedModel pretrained{configuration.text("model_type"), Decoder(model.decoder, source), {}, {}};
  pretrained.head = {.weight = checkpoint.head(pretrained.decoder.embedding()->value),
                     .logit_softcap = model.logit_softcap};
  pretrained.tie_word_embeddings = model.tie_word_embeddings;
  checkpoint.check_all_used();
  return pretrained;
}

}  // namespace lmhead
