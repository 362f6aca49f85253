// A model that a run of ours trained, opened from the run's folder or from one of its checkpoints.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "lmhead/models/causal_model.h"
#include "lmhead/run/run.h"
#include "lmhead/train/checkpoint.h"

namespace lmhead {

struct TrainedModel {
  RunConfiguration configuration;
  std::filesystem::path checkpoint;
  TrainingState state;
  CausalModel model;  // float32
};

/// Whether `folder` is a run's or a checkpoint's.
bool is_trained_model(const std::filesystem::path& folder);

/// Which checkpoints of a run's folder are meant.
enum class CheckpointChoice { kNewest, kBest, kAll };

/// The folders of a run's checkpoints that are meant, by rising step; `folder` itself where it is a checkpoint's.
/// Throws where there is none.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& folder, CheckpointChoice choice);

/// Opens a run's newest checkpoint, or the checkpoint whose folder is given (the run's config.json lies two folders
/// above it). The vocabulary is the checkpoint's, so that the dataset need not be there. Throws where the run has no
/// checkpoint yet or its tensors are not those of the configuration.
TrainedModel open_trained_model(const std::filesystem::path& folder);

/// How a run's ids stand for text, as far as that is still known.
struct RunText {
  bool is_bytes = false;  // ids 0 to 255 are the bytes themselves
  std::optional<std::filesystem::path> tokenizer;
  std::optional<std::int64_t> end_of_document;
};

/// The tokenizer comes from the run's dataset folder, if that is still there and has the tokenizer that the run was
/// trained with.
RunText text_of_run(const TrainedModel& trained);

}  // namespace lmhead
