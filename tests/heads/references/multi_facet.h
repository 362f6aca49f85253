#pragma once

#include <cmath>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry multi_facet_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{Json::object()}, {{{"width", 3}}}, {{{"width", 5}}, true}};
  };
  // Row by row: which words stand in the context decides which of two logits each word has.
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    const at::Tensor weight = own == values.end() ? values.at(kEmbeddingName) : own->second;
    const at::Tensor x = input.hidden.matmul(values.at("lm_head.facet_up_proj.weight").t());
    const at::Tensor facet =
        input.hidden +
        (x * (1 + (x / std::sqrt(2.0)).erf()) / 2).matmul(values.at("lm_head.facet_down_proj.weight").t());
    const at::Tensor of_others = input.hidden.matmul(weight.t()), of_context = facet.matmul(weight.t());
    at::Tensor is_context = of_others.gt(INFINITY);
    const std::int64_t sequences = input.tokens.size(0), length = input.tokens.size(1);
    for (std::int64_t b = 0; b < sequences; ++b)
      for (std::int64_t t = 0; t < length; ++t)
        for (std::int64_t s = 0; s <= t; ++s)
          if (input.documents[b][s].equal(input.documents[b][t]))
            is_context[b * length + t][input.tokens[b][s].item<std::int64_t>()] = true;
    return of_others.where(is_context.logical_not(), of_context);
  };
  return {cases, logits, /*takes_logit_terms=*/false};
}

}  // namespace lmhead
