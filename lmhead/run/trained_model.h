// A model that a run of ours trained, opened from the run's folder or from one of its checkpoints.
#pragma once

#include <filesystem>
#include <vector>

#include "lmhead/models/loaded_model.h"

namespace lmhead {

/// Whether `folder` is a run's or a checkpoint's.
bool is_trained_model(const std::filesystem::path& folder);

/// Which checkpoints of a run's folder are meant.
enum class CheckpointChoice { kNewest, kBest, kAll };

/// The folders of a run's checkpoints that are meant, by rising step; `folder` itself where it is a checkpoint's.
/// Throws where there is none.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& folder, CheckpointChoice choice);

/// Opens a run's newest checkpoint, or the checkpoint whose folder is given (the run's config.json lies two folders
/// above it), in float32. The vocabulary is the checkpoint's, so that the dataset need not be there; the tokenizer
/// comes from the dataset's folder, if that is still there and has the one that the run was trained with. Throws where
/// the run has no checkpoint yet or its tensors are not those of the configuration.
LoadedModel open_trained_model(const std::filesystem::path& folder);

}  // namespace lmhead
