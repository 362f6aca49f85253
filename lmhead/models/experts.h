// A sparse mixture of experts: every token goes through the few MLPs that a router chooses for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace lmhead {

struct ExpertWeights {
  at::Tensor router;   // [E, D]
  at::Tensor gate_up;  // [E 2 F, D]: of each expert the gate before what it multiplies
  at::Tensor down;     // [E D, F]
};

struct ExpertChoice {
  std::int64_t per_token;      // k, the likeliest of the E
  bool is_normalised = false;  // whether the k probabilities are made to sum to 1
};

/// The sum over each token's k experts of probability * down(activate(gate_up x)), [N, D] for `input` [N, D];
/// `activate` makes [n, F] of [n, 2 F]. Probabilities are a softmax in float32 over all experts. Memory: the rows of
/// one expert at a time, beside what autograd keeps. Source: Jiang et al. 2024 (Mixtral), as transformers computes it.
at::Tensor mix_experts(const at::Tensor& input, const ExpertWeights& weights, const ExpertChoice& choice,
                       const std::function<at::Tensor(const at::Tensor&)>& activate);

}  // namespace lmhead
