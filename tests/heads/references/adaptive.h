#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry adaptive_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{Json::object()},
                             {{{"cutoffs", {1}}, {"width_divisor", 2.0}}, false, 2},
                             {{{"cutoffs", {2, 3, 5}}, {"width_divisor", 1.5}}, false, 7},
                             {{{"cutoffs", {2, 6}}}, false, 8}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    const at::Tensor sizes = values.at("lm_head.class_sizes").to(at::kLong);
    const at::Tensor order = values.at("lm_head.word_order").to(at::kLong);
    const at::Tensor first = input.hidden.matmul(values.at("lm_head.head_proj.weight").t()).softmax(1);
    const auto frequent = sizes[0].item<std::int64_t>();
    std::vector<at::Tensor> parts = {first.narrow(1, 0, frequent)};
    for (std::int64_t tail = 0; tail + 1 < sizes.size(0); ++tail) {
      at::Tensor p = first.narrow(1, frequent + tail, 1);
      const std::string name = "lm_head.tails." + std::to_string(tail);
      if (sizes[tail + 1].item<std::int64_t>() > 1)
        p = p * input.hidden.matmul(values.at(name + ".down_proj.weight").t())
                    .matmul(values.at(name + ".up_proj.weight").t())
                    .softmax(1);
      parts.push_back(p);
    }
    const at::Tensor p = at::cat(parts, 1);
    return at::zeros_like(p).index_copy(1, order, p).log();
  };
  return {cases, logits, /*takes_logit_terms=*/false};
}

}  // namespace lmhead
