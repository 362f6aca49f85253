// Anything whose head can be measured: a pretrained folder, a run or one of its checkpoints, or features that
// any other program exported.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/heads/lm_head.h"
#include "lmhead/kernels/linear_map.h"
#include "lmhead/models/decoder.h"
#include "lmhead/run/trained_model.h"

namespace lmhead {

enum class ModelKind { kPretrained, kCheckpoint, kFeatures };
const char* to_string(ModelKind kind);

struct MeasuredModel {
  std::string name;  // as the user asked for it; a checkpoint of several is named with its step
  ModelKind kind;
  std::string family;                      // model_type, the head's type for a run, empty for features
  std::shared_ptr<const Decoder> decoder;  // null for features
  LinearMap head;
  std::shared_ptr<const LmHead> nonlinear_head;       // in place of `head` where there is no linear map
  at::Tensor hidden, targets, documents, positions;   // of features alone; the last two may be undefined
  std::int64_t longest_sequence = 0;                  // that the model was made for; 0: not known
  bool longest_is_limit = false;                      // learned positions: there are no more
  std::optional<std::int64_t> end_of_document;        // eos_token_id, or the dataset's
  std::filesystem::path tokenizer;                    // empty: none beside the model
  bool bytes_are_tokens = false;                      // a run on plain bytes: ids 0 to 255
  std::optional<std::int64_t> step, training_tokens;  // of a checkpoint

  std::int64_t vocab_size() const;
};

/// Where each model that `path` stands for lies: a checkpoint's folder for a run (all of them, ascending, for
/// `kAll`), else `path` itself. Throws where a run has no checkpoint.
std::vector<std::filesystem::path> find_models(const std::filesystem::path& path, CheckpointChoice choice);

/// Reads a model: a folder in the Hugging Face layout, a checkpoint's folder inside its run, or a
/// `.safetensors` file with `hidden` [N, D], `weight` [V, D], `targets` [N] and, where there are, `bias` [V],
/// `documents` [N], `positions` [N]. Memory: weights as `load_pretrained` has them; features stay in the file.
/// Throws, naming file and key, on whatever is missing, misshapen or not finite, and on targets outside [0, V).
MeasuredModel load_measured_model(const std::filesystem::path& path, const std::string& name);

}  // namespace lmhead
