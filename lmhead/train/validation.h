// How well a model knows the validation set, as a whole and by groups of tokens.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/data/batches.h"
#include "lmhead/data/frequency_bands.h"
#include "lmhead/models/causal_model.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

/// Of a group of validation tokens; without loss and accuracy where it is empty.
struct GroupScores {
  std::int64_t tokens = 0;
  std::optional<double> loss, top1_accuracy;
};

/// For synthetic languages: what training has shown so far, and how well that and the rest are known.
struct CoverageScores {
  double draws_per_symbol, share_seen;
  GroupScores seen, unseen;
};

struct Validation {
  double loss;  // nats per token
  std::optional<double> bits_per_byte;
  double top1_accuracy;
  std::int64_t tokens;
  std::optional<CoverageScores> coverage;
  /// By how often the target occurs in training; empty for synthetic languages.
  std::vector<std::pair<std::string, GroupScores>> by_frequency;
};
Json to_json(const Validation& validation);

/// Scores every token of the validation set of `batches` by the model's working values; sums are float64. `bands` are
/// those of the training data, where it has any; what was shown of a synthetic language is counted up to `step`. Of
/// several processes each takes its share of the batches, and all get the same figures.
Validation validate(const CausalModel& model, const BatchSource& batches, const std::optional<FrequencyBands>& bands,
                    std::int64_t step, const Processes& processes = {});

}  // namespace lmhead
