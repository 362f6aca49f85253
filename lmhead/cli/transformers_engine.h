// Models that are no family here: transformers computes their features, and the figures are the native ones of these.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "lmhead/measure/measured_tokens.h"
#include "lmhead/models/loaded_model.h"

namespace lmhead {

/// What a folder's config.json says of a model of any architecture.
struct ForeignModel {
  std::filesystem::path folder;
  std::string family;  // model_type
  ModelText text;
  std::int64_t vocab_size;
  std::int64_t max_position_embeddings = 0;  // 0: not known
};

/// Throws where `folder` is not in the Hugging Face layout, or a run.
ForeignModel open_foreign_model(const std::filesystem::path& folder);

/// The model's features and head on the windows of `tokens`, which the program lmhead-features computes in float32 and
/// leaves in `scratch`. Disk: D float32 a target, and the head.
LoadedModel compute_foreign_features(const ForeignModel& model, const MeasuredTokens& tokens,
                                     const WindowOptions& options, const std::filesystem::path& scratch);

}  // namespace lmhead
