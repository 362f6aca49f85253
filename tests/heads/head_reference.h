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
  std::int64_t least_vocab_size = 1;  // with which it can be built
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

/// Mean loss from the definition: (1 - s) nll + s (mean nll over the classes) + z lse^2.
inline at::Tensor reference_loss(const at::Tensor& logits, const at::Tensor& targets, const LossOptions& options) {
  const at::Tensor largest = logits.amax({1}, true);
  const at::Tensor lse = (logits - largest).exp().sum({1}, true).log() + largest;
  const at::Tensor cost = lse - logits;  // [N, V]: -log p
  const at::Tensor nll = cost.gather(1, targets.unsqueeze(1));
  const double smoothing = options.label_smoothing;
  return ((1 - smoothing) * nll + smoothing * cost.mean(1, true) + options.z_loss * lse.square()).mean();
}

/// -log p of each target [N].
inline at::Tensor reference_token_losses(const at::Tensor& logits, const at::Tensor& targets) {
  return -logits.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1);
}

struct Entry {
  std::function<std::vector<Case>(std::int64_t hidden_size)> cases;
  ReferenceLogits logits;                // [N, V], what `LmHead::logits` gives: forms every probability
  bool takes_logit_terms = true;         // z-loss and label smoothing
  ReferenceTraining training_loss = {};  // where it is not the mean cross-entropy of these logits with those terms
  std::vector<std::string> training_only = {};  // how names begin that the logits do not depend on, `layer` among them
  double difference_step = 1e-5;                // of central differences; less where logits have kinks

  bool is_training_only(const std::string& name) const {
    for (const std::string& begin : training_only)
      if (name.starts_with(begin)) return true;
    return false;
  }
};

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";

}  // namespace lmhead
