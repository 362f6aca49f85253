// A pretrained model out of a folder in the Hugging Face layout.
#pragma once

#include <filesystem>
#include <string>

#include "lmhead/kernels/linear_map.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

/// The two halves of a causal model: `decoder` ends at the features after the final norm, `head` makes logits
/// of them.
struct PretrainedModel {
  std::string model_type;
  Decoder decoder;
  LinearMap head;  // float32; the embedding's own matrix where the two are tied
  bool tie_word_embeddings = false;
};

/// Reads `config.json` and the safetensors file or shards beside it. Families: see `families()`.
///
/// Everything is float32. Memory: float32 matrices that need no rearranging are views of the file; what is
/// stored in 16 bits, fused (q, k, v; gate, up) or transposed is copied, so at most one float32 copy of the
/// weights. Parameters take no gradient. Throws, naming file and key or tensor, on whatever is missing,
/// misshapen, left over or not finite; harmless buffers (causal masks, rotary frequencies) are ignored.
PretrainedModel load_pretrained(const std::filesystem::path& folder);

}  // namespace lmhead
