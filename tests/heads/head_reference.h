// What the contract test knows of a head: how it may be built, and its formula in float64.
#pragma once

#include <ATen/TensorOperators.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/heads/lm_head.h"

namespace lmhead {

using Values = std::map<std::string, at::Tensor>;  // float64, by parameter name

/// One way of building a head.
struct Case {
  Json options;  // as in a configuration, without the type
  bool tied = false;
};

/// A pass over tokens in float64: N = B T rows.
struct ReferenceInput {
  at::Tensor hidden;               // [N, D]
  at::Tensor tokens, documents;    // [B, T]
  std::vector<at::Tensor> layers;  // [N, D]
};

using ReferenceLogits = std::function<at::Tensor(const Json& options, const Values&, const ReferenceInput&)>;
using ReferenceTraining = std::function<at::Tensor(const Json& options, const Values&, const ReferenceInput&,
                                                   const at::Tensor& targets, const LossOptions&, const StepContext&)>;

struct Entry {
  std::function<std::vector<Case>(std::int64_t hidden_size)> cases;
  ReferenceLogits logits;                // [N, V], what `LmHead::logits` gives: forms every probability
  bool takes_logit_terms = true;         // z-loss and label smoothing
  ReferenceTraining training_loss = {};  // where it is not the mean cross-entropy of these logits with those terms
};

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";

}  // namespace lmhead
