// A model of ours as a folder that Hugging Face transformers loads.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "lmhead/kernels/linear_map.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

/// What is written beside the weights.
struct HfExportOptions {
  std::int64_t max_position_embeddings = 1024;  // where the positions are not a learned table
  std::optional<std::int64_t> end_token;
  std::optional<std::filesystem::path> tokenizer;  // a tokenizer.json, copied
};

/// Writes config.json, model.safetensors (float32), generation_config.json and, where there is a tokenizer,
/// tokenizer.json and tokenizer_config.json; the whole folder appears at once. Returns the name of the class.
///
/// `transformers.AutoModelForCausalLM` computes the same logits. A logit scale is multiplied into the matrix, which
/// is then no longer tied. Memory: one copy of the largest rearranged tensor, and of a head matrix that is scaled.
/// Throws on a model that no class expresses (see `hf_classes`), on a head with bias or soft-cap, and where `folder`
/// holds anything but an earlier export.
std::string export_to_hf(const Decoder& decoder, const LinearMap& head, const std::filesystem::path& folder,
                         const HfExportOptions& options = {});

}  // namespace lmhead
