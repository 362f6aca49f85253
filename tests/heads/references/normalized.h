#pragma once

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry normalized_entry() {
  const auto cases = [](std::int64_t hidden_size) {
    // Of one dimension nothing but signs is left: the gradients by W and h are 0, and roundings all that one would see.
    if (hidden_size == 1) return std::vector<Case>{};
    return std::vector<Case>{{Json::object()}, {{{"initial_scale", 3.0}}}, {Json::object(), true}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    const at::Tensor weight = own == values.end() ? values.at(kEmbeddingName) : own->second;
    const at::Tensor words = weight / weight.square().sum({1}, true).sqrt();
    const at::Tensor features = input.hidden / input.hidden.square().sum({1}, true).sqrt();
    return values.at("lm_head.log_scale").exp() * features.matmul(words.t());
  };
  return {cases, logits};
}

}  // namespace lmhead
