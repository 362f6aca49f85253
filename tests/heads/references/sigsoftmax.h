#pragma once

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry sigsoftmax_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{Json::object()}, {{{"bias", true}}}, {{{"bias", true}}, true}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    at::Tensor z = input.hidden.matmul((own == values.end() ? values.at(kEmbeddingName) : own->second).t());
    if (options.value("bias", false)) z = z + values.at("lm_head.bias");
    return (z.exp() * z.sigmoid()).log();
  };
  return {cases, logits};
}

}  // namespace lmhead
