// Anything whose head can be measured: a pretrained folder, a run or one of its checkpoints, or features that
// any other program exported.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lmhead/models/pretrained.h"
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

/// The same to be measured: blocks of a pretrained folder are read when a pass comes to them (`open_pretrained`), and
/// the decoder alone computes in `type`, the head in float32. `before_reading` is called once what is known without a
/// tensor's numbers is, with a decoder that has at least the shapes of its parameters; not for features. What it
/// says of files counts for pretrained folders.
LoadedModel open_model(const std::filesystem::path& path, at::ScalarType type, c10::Device device,
                       const BeforeReading& before_reading = {});

/// The same as `load_model` with blocks of a pretrained folder read when a pass comes to them; all else in memory, in
/// the same types. The scores of such a model are those of the other.
LoadedModel open_model_by_blocks(const std::filesystem::path& path, at::ScalarType type, c10::Device device);

/// The type of products that serves a model best: bfloat16 where that is how the weights of a pretrained folder are
/// stored and `device` has instructions for it, else float32.
at::ScalarType fastest_type(const std::filesystem::path& path, c10::Device device);

}  // namespace lmhead
