// A pretrained model out of a folder in the Hugging Face layout.
#pragma once

#include <filesystem>

#include "lmhead/models/hf_configuration.h"
#include "lmhead/models/loaded_model.h"

namespace lmhead {

/// Reads `config.json` and the safetensors file or shards beside it. Families: see `families()`.
///
/// Everything is float32; the head's matrix is the embedding's own where the two are tied. Memory: one float32
/// copy of the weights, and one matrix while it is rearranged; throws where there is too little, before it is taken.
/// Parameters take no gradient. The text's ends are those of
/// generation_config.json before those of config.json. Throws, naming file and key or tensor, on whatever is missing,
/// misshapen, left over or not finite; harmless buffers (causal masks, rotary frequencies) are ignored.
///
/// In another `type` the matrices are that from the start, copies all of them; vectors stay float32.
LoadedModel load_pretrained(const std::filesystem::path& folder, at::ScalarType type = at::kFloat);

/// What is known of the text behind the ids of a folder's model, whose `configuration` is its config.json.
ModelText read_model_text(const std::filesystem::path& folder, const HfConfiguration& configuration);

}  // namespace lmhead
