#pragma once

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry low_rank_entry() {
  const auto cases = [](std::int64_t hidden_size) {
    return std::vector<Case>{{{{"rank", 1}}}, {{{"rank", (hidden_size + 1) / 2}}}, {{{"rank", hidden_size}}}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    const at::Tensor inner = input.hidden.matmul(values.at("lm_head.down_proj.weight").t());
    return inner.matmul(values.at("lm_head.up_proj.weight").t());
  };
  return {cases, logits};
}

}  // namespace lmhead
