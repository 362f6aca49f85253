#pragma once

#include <cmath>

#include "tests/heads/head_reference.h"
#include "tests/heads/references/joined_words.h"

namespace lmhead {

/// phi by its definition.
inline at::Tensor reference_phi(const std::string& phi, const at::Tensor& x) {
  return phi == "gelu" ? x * (1 + (x / std::sqrt(2.0)).erf()) / 2 : phi == "silu" ? x / (1 + (-x).exp()) : x;
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
    const auto [weight, up] = reference_joined_words(values, input.hidden.size(1), "lm_head.up_proj.weight");
    return input.hidden.matmul(weight.t()) + inner.matmul(up.t());
  };
  return {cases, logits};
}

}  // namespace lmhead
