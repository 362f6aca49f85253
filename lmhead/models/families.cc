#include "lmhead/models/families.h"

#include "lmhead/base/error.h"

namespace lmhead {

const std::vector<Family>& families() {
  static const std::vector<Family> kFamilies = {
      // clang-format off
      {"gpt2", describe_gpt2},
      {"gpt_neox", describe_gpt_neox},
      {"llama", describe_llama},  // SmolLM2 too
      {"mistral", describe_mistral},
      {"qwen2", describe_qwen2},
      {"qwen3", describe_qwen3},
      {"olmo2", describe_olmo2},
      {"gemma", describe_gemma},
      {"gemma2", describe_gemma2},
      {"gemma3_text", describe_gemma3},
      {"gemma3", describe_gemma3},  // the text part of the model that also sees
      {"mixtral", describe_mixtral},
      {"qwen3_moe", describe_qwen3_moe},
      {"phi3", describe_phi3},
      {"granite", describe_granite},
      {"cohere2", describe_cohere2},
      {"stablelm", describe_stablelm},
      {"nemotron", describe_nemotron},
      // clang-format on
  };
  return kFamilies;
}

FamilyModel describe_model(const HfConfiguration& configuration) {
  const std::string type = configuration.text("model_type");
  std::string known;
  for (const Family& family : families()) {
    if (type == family.model_type) {
      if (configuration.has("quantization_config")) {
        configuration.refuse("quantization_config", "absent: quantised weights are measured from Python");
      }
      return family.describe(configuration);
    }
    known.append(known.empty() ? "" : ", ").append(family.model_type);
  }
  configuration.refuse(
      "model_type",
      "one of " + known +
          " (any other model: lmhead measure --engine transformers, or lmhead.measure(model, batches) in Python)");
}

}  // namespace lmhead
