#pragma once

#include <cmath>

#include "tests/heads/head_reference.h"

namespace lmhead {

/// phi by its definition.
inline at::Tensor reference_phi(const std::string& phi, const at::Tensor& x) {
  return phi == "gelu" ? x * (1 + (x / std::sqrt(2.0)).erf()) / 2 : phi == "silu" ? x / (1 + (-x).exp()) : x;
}

/// The head's own matrix, or the embedding where the two are tied.
inline const at::Tensor& reference_weight(const Values& values) {
  const auto own = values.find("lm_head.weight");
  return own == values.end() ? values.at(kEmbeddingName) : own->second;
}

inline Entry residual_expansion_entry() {
  const auto cases = [](std::int64_t hidden_size) {
    return std::vector<Case>{{{{"width", 1}}},
                             {{{"width", 3}, {"activation", "silu"}}, true},
                             {{{"width", hidden_size + 2}, {"activation", "none"}}},
                             {{{"width", 4}}}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const at::Tensor inner = reference_phi(options.value("activation", "gelu"),
                                           input.hidden.matmul(values.at("lm_head.down_proj.weight").t()));
    const std::int64_t hidden = input.hidden.size(1);
    const at::Tensor& weight = reference_weight(values);  // [W, U] unless W is the embedding
    const at::Tensor up = values.contains("lm_head.up_proj.weight") ? values.at("lm_head.up_proj.weight")
                                                                    : weight.narrow(1, hidden, inner.size(1));
    return input.hidden.matmul(weight.narrow(1, 0, hidden).t()) + inner.matmul(up.t());
  };
  return {cases, logits};
}

}  // namespace lmhead
