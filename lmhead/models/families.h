// The families of pretrained models that are read natively: each is a specification and a map of names.
#pragma once

#include <string>
#include <vector>

#include "lmhead/models/decoder_specification.h"
#include "lmhead/models/hf_configuration.h"

namespace lmhead {

/// How a checkpoint lays out a matrix that ours has as [outputs, inputs].
enum class MatrixLayout {
  kPlain,
  kTransposed,        // [inputs, outputs]: GPT-2's Conv1D
  kHeadsInterleaved,  // rows q, k, v of head 0, then of head 1, ...: GPT-NeoX's query_key_value
  kPairsInterleaved,  // the two elements that are rotated together stand side by side in a head: Cohere 2's q and k
};

/// Our name of a module, without `model.` and `layers.N.`, and the checkpoint's.
struct NameRule {
  std::string ours, theirs;
  MatrixLayout layout = MatrixLayout::kPlain;
};

/// A checkpoint's model in our terms.
struct FamilyModel {
  DecoderSpecification decoder;
  bool tie_word_embeddings = false;
  double logit_softcap = 0;            // of the head; 0: none
  double logit_scale = 1;              // multiplies the head's logits
  bool norm_weights_plus_one = false;  // the norms multiply by 1 + weight: Gemma
  /// What stands before the body's names; the first under which the checkpoint has the embedding is taken.
  std::vector<std::string> body_prefixes = {"model.", ""};
  std::string layer_prefix = "layers.";
  std::vector<NameRule> rules;  // modules without a rule have our name
  std::vector<std::string> head_names = {"lm_head.weight"};
  std::vector<std::string> ignored_prefixes;  // tensors of other parts (a vision tower) that are left alone
};

/// One line of the list of families.
struct Family {
  const char* model_type;
  FamilyModel (*describe)(const HfConfiguration& configuration);
};

/// Every family there is.
const std::vector<Family>& families();

/// The model that a configuration describes. Throws on a `model_type` that is not in the list, naming those
/// that are and the way through Python.
FamilyModel describe_model(const HfConfiguration& configuration);

FamilyModel describe_gpt2(const HfConfiguration& configuration);
FamilyModel describe_gpt_neox(const HfConfiguration& configuration);
FamilyModel describe_llama(const HfConfiguration& configuration);
FamilyModel describe_mistral(const HfConfiguration& configuration);
FamilyModel describe_qwen2(const HfConfiguration& configuration);
FamilyModel describe_qwen3(const HfConfiguration& configuration);
FamilyModel describe_olmo2(const HfConfiguration& configuration);
FamilyModel describe_gemma(const HfConfiguration& configuration);
FamilyModel describe_gemma2(const HfConfiguration& configuration);
FamilyModel describe_gemma3(const HfConfiguration& configuration);
FamilyModel describe_mixtral(const HfConfiguration& configuration);
FamilyModel describe_qwen3_moe(const HfConfiguration& configuration);
FamilyModel describe_phi3(const HfConfiguration& configuration);
FamilyModel describe_granite(const HfConfiguration& configuration);
FamilyModel describe_cohere2(const HfConfiguration& configuration);
FamilyModel describe_stablelm(const HfConfiguration& configuration);
FamilyModel describe_nemotron(const HfConfiguration& configuration);

}  // namespace lmhead
