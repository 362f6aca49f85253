// A model that was trained before, wherever it comes from: what measuring, sampling and exporting work on.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/heads/lm_head.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

enum class ModelKind { kPretrained, kCheckpoint, kFeatures };
const char* to_string(ModelKind kind);

/// How a model's ids stand for text, as far as that is known.
struct ModelText {
  bool is_bytes = false;                           // ids 0 to 255 are the bytes themselves
  std::optional<std::filesystem::path> tokenizer;  // a tokenizer.json, or what lmhead-tokenize reads in its place
  std::optional<std::int64_t> beginning;           // the token that opens a text
  std::optional<std::int64_t> end_of_document;     // what stands between documents
  std::vector<std::int64_t> end_tokens;            // behind which nothing is generated
  bool adds_special_tokens = false;                // whether the tokenizer's template belongs around a prompt
};

/// What another program computed, in place of a decoder; the last two may be undefined.
struct Features {
  std::function<at::Tensor(std::int64_t begin, std::int64_t count)> hidden;  // rows of [N, D], which stays in its file
  at::Tensor targets;                                                        // [N], -100: left out
  at::Tensor documents, positions;                                           // [N]
  std::optional<double> bytes_per_token;                                     // UTF-8 bytes of a target on average
};

/// The two halves of a causal model, and what is known of it beside its weights.
struct LoadedModel {
  ModelKind kind;
  std::string name;                        // as the user asked for it; one checkpoint of several has its step in it
  std::string family;                      // model_type, the head's type for a run, empty for features
  std::string quantization;                // of the file that the weights were undone from; empty: none
  std::shared_ptr<const Decoder> decoder;  // ends at the features after the final norm; null for features
  std::shared_ptr<const LmHead> head;      // makes logits of them
  Features features;                       // where there is no decoder
  ModelText text;
  std::int64_t max_position_embeddings = 0;           // that the configuration names; 0: none
  std::int64_t sequence_length = 0;                   // that a run was trained on; 0: not known
  std::optional<std::int64_t> step, training_tokens;  // of a checkpoint
};

}  // namespace lmhead
