#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry two_level_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{{{"classes", 1}}},
                             {{{"classes", 2}}, false, 3},
                             {{{"classes", 5}, {"by", "sqrt"}}, false, 6},
                             {Json::object()}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    const at::Tensor sizes = values.at("lm_head.class_sizes").to(at::kLong);
    const at::Tensor z = input.hidden.matmul(values.at("lm_head.weight").t());
    std::vector<at::Tensor> parts;
    std::int64_t begin = 0;
    for (std::int64_t index = 0; index < sizes.size(0); ++index) {
      const auto size = sizes[index].item<std::int64_t>();
      at::Tensor p = z.narrow(1, begin, size).softmax(1);
      if (sizes.size(0) > 1)
        p = p * input.hidden.matmul(values.at("lm_head.class_proj.weight").t()).softmax(1).narrow(1, index, 1);
      parts.push_back(p);
      begin += size;
    }
    const at::Tensor order = values.at("lm_head.word_order").to(at::kLong);
    return at::zeros_like(z).index_copy(1, order, at::cat(parts, 1)).log();
  };
  return {cases, logits, /*takes_logit_terms=*/false};
}

}  // namespace lmhead
