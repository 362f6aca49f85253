// Anything whose head can be measured: a pretrained folder, a run or one of its checkpoints, or features that
// any other program exported.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lmhead/models/loaded_model.h"
#include "lmhead/run/trained_model.h"

namespace lmhead {

/// Where each model that `path` stands for lies: a checkpoint's folder for a run (all of them, ascending, for
/// `kAll`), else `path` itself. Throws where a run has no checkpoint.
std::vector<std::filesystem::path> find_models(const std::filesystem::path& path, CheckpointChoice choice);

/// Reads a model: a folder in the Hugging Face layout, a run's or a checkpoint's, or a `.safetensors` file with
/// `hidden` [N, D], `weight` [V, D], `targets` [N] and, where there are, `bias` [V], `documents` [N], `positions` [N],
/// and in its metadata `logit_scale` and `logit_softcap`.
/// Memory: weights as `load_pretrained` has them; features stay in the file. Throws, naming file and key, on whatever
/// is missing, misshapen or not finite, and on targets outside [0, V).
///
/// In another `type` products are computed in that; of a run the float32 weights stay beside. Weights are read into the
/// CPU's memory and moved to `device`.
LoadedModel load_model(const std::filesystem::path& path, at::ScalarType type = at::kFloat,
                       c10::Device device = c10::Device(c10::DeviceType::CPU));

}  // namespace lmhead
