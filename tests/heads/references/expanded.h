#pragma once

#include <cmath>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry expanded_entry() {
  const auto cases = [](std::int64_t hidden_size) {
    return std::vector<Case>{{{{"width", 1}}},
                             {{{"width", 2 * hidden_size + 1}}},
                             {{{"width", 5}, {"activation", "gelu"}}},
                             {{{"width", hidden_size}, {"activation", "silu"}}}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const at::Tensor x = input.hidden.matmul(values.at("lm_head.up_proj.weight").t());
    const std::string phi = options.value("activation", "none");
    const at::Tensor inner = phi == "gelu"   ? x * (1 + (x / std::sqrt(2.0)).erf()) / 2
                             : phi == "silu" ? x / (1 + (-x).exp())
                                             : x;
    return inner.matmul(values.at("lm_head.output_proj.weight").t());
  };
  return {cases, logits};
}

}  // namespace lmhead
