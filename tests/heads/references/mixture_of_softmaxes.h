#pragma once

#include <ATen/ops/tanh.h>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry mixture_of_softmaxes_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{
        {{{"components", 1}}}, {{{"components", 2}}}, {{{"components", 5}}}, {{{"components", 3}}, true}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    const at::Tensor weight = own == values.end() ? values.at(kEmbeddingName) : own->second;
    const auto components = options["components"].get<std::int64_t>();
    const std::int64_t width = input.hidden.size(1);
    at::Tensor p;
    for (std::int64_t k = 0; k < components; ++k) {
      const at::Tensor latent = values.at("lm_head.latent_proj.weight").narrow(0, k * width, width);
      const at::Tensor f = at::tanh(input.hidden.matmul(latent.t()));
      at::Tensor part = f.matmul(weight.t()).softmax(1);
      if (components > 1) {
        const at::Tensor prior = input.hidden.matmul(values.at("lm_head.prior_proj.weight").t()).softmax(1);
        part = part * prior.narrow(1, k, 1);
      }
      p = k == 0 ? part : p + part;
    }
    return p.log();
  };
  return {cases, logits, /*takes_logit_terms=*/false};
}

}  // namespace lmhead
