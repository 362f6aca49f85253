#pragma once

#include <ATen/ops/tanh.h>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry linear_entry() {
  const auto cases = [](std::int64_t) {
    const Json everything = {{"bias", true}, {"logit_softcap", 3.0}, {"mup_base_width", 6}};
    return std::vector<Case>{{Json::object()},          {{{"bias", true}}}, {{{"logit_softcap", 2.5}}},
                             {{{"mup_base_width", 6}}}, {everything},       {Json::object(), true},
                             {everything, true}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    at::Tensor z = input.hidden.matmul((own == values.end() ? values.at(kEmbeddingName) : own->second).t());
    if (options.value("bias", false)) z = z + values.at("lm_head.bias");
    if (options.contains("mup_base_width"))
      z = z * (options["mup_base_width"].get<double>() / double(input.hidden.size(1)));
    const double cap = options.value("logit_softcap", 0.0);
    return cap > 0 ? cap * at::tanh(z / cap) : z;
  };
  return {cases, logits};
}

}  // namespace lmhead
