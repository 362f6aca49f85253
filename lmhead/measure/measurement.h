// Measures a model on tokens: windows through the decoder into every diagnostic, a batch at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/diagnose/diagnostic.h"
#include "lmhead/measure/kept_features.h"
#include "lmhead/measure/measured_tokens.h"
#include "lmhead/models/loaded_model.h"

namespace lmhead {

struct MeasurementOptions {
  std::vector<std::string> diagnostics;  // names of the list; empty: all
  DiagnosticOptions diagnostic;
  std::int64_t sequence_length = 0;  // 0: the model's own, at most 1024
  std::int64_t max_tokens = 0;       // 0: all
  bool by_document = false;
  bool float64 = false;                          // the head's products in float64; the decoder stays as it is
  at::ScalarType features_type = at::kFloat;     // that the decoder's matrices are in; recorded, and counted in memory
  std::optional<double> memory = std::nullopt;   // bytes that the process may take; none: see chunk_tokens()
  std::shared_ptr<KeptFeatures> kept = nullptr;  // of a decoder whose blocks are read; null: nothing is kept
};

/// The window's length that is taken where none is asked for: `longest`, at most 1024, which is also taken for 0.
std::int64_t default_sequence_length(std::int64_t longest);

/// What a measurement does at the moment.
struct MeasurementState {
  std::string doing;                   // a diagnostic's name, `energies`, or empty: features
  std::int64_t layer = 0, layers = 0;  // that the tokens of a chunk go through, from 1; 0: there are none
  double done = 0;                     // tokens whose features are there, those of layers in proportion
  std::int64_t tokens = 0, of = 0;     // that every diagnostic has seen, and that there will be at most
  bool finishing = false;              // all of them were seen, and figures are made of it
  std::uint64_t bytes_read = 0;        // of the checkpoint
};
/// Called whenever that changes.
using MeasurementProgress = std::function<void(const MeasurementState& state)>;

/// Throws where `options.memory` is too little to measure `model`, of which the shapes of parameters suffice;
/// `reads_blocks` says whether each block is read when a pass comes to it. Then a folder comes back where the head must
/// lie on disk for it: the caller's to read it there, and to set as `diagnostic.head_space.scratch`.
std::optional<std::filesystem::path> check_memory(const LoadedModel& model, const MeasurementOptions& options,
                                                  bool reads_blocks);

/// All figures of `model` under the keys of the glossary, after `model`, `kind`, `family`, `step`,
/// `training_tokens`, `sequence_length` (null where they do not apply).
///
/// `tokens` may be null for features, which bring their own. All tokens of a chunk go through one block of the decoder
/// before the next is asked for. Memory: that block where it is read when it is asked for, the features of a chunk, the
/// samples that diagnostics keep, and with `float64` a copy of the head; it does not grow with the tokens. The chunk's
/// size changes no bit of any figure. Throws on a sequence length beyond learned positions, on ids outside the
/// vocabulary, where there is no token, and where `options.memory` is too little.
Json measure_model(const LoadedModel& model, const MeasuredTokens* tokens, const MeasurementOptions& options,
                   const MeasurementProgress& progress = {});

}  // namespace lmhead
