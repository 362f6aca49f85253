// Measures a model on tokens: windows through the decoder into every diagnostic, a batch at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lmhead/diagnose/diagnostic.h"
#include "lmhead/measure/measured_tokens.h"
#include "lmhead/models/loaded_model.h"

namespace lmhead {

struct MeasurementOptions {
  std::vector<std::string> diagnostics;  // names of the list; empty: all
  DiagnosticOptions diagnostic;
  std::int64_t sequence_length = 0;  // 0: the model's own, at most 1024
  std::int64_t max_tokens = 0;       // 0: all
  bool by_document = false;
  bool float64 = false;  // the head's products in float64; the decoder stays float32
};

/// The window's length that is taken where none is asked for: `longest`, at most 1024, which is also taken for 0.
std::int64_t default_sequence_length(std::int64_t longest);

/// Called after every batch with the tokens done, and those there will be.
using MeasurementProgress = std::function<void(std::int64_t done, std::int64_t of)>;

/// All figures of `model` under the keys of the glossary, after `model`, `kind`, `family`, `step`,
/// `training_tokens`, `sequence_length` (null where they do not apply).
///
/// `tokens` may be null for features, which bring their own. Memory: a batch, the samples that
/// diagnostics keep, and with `float64` a copy of the head; it does not grow with the tokens. Throws on a
/// sequence length beyond learned positions, on ids outside the vocabulary, and where there is no token.
Json measure_model(
    const LoadedModel& model, const MeasuredTokens* tokens, const MeasurementOptions& options,
    const MeasurementProgress& progress = [](std::int64_t, std::int64_t) {});

}  // namespace lmhead
