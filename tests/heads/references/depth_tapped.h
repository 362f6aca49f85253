#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "tests/heads/head_reference.h"
#include "tests/heads/references/residual_expansion.h"

namespace lmhead {

inline Entry depth_tapped_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{{{"blocks", 1}, {"taps", 0}, {"width", 0}}},
                             {{{"blocks", 1}, {"taps", 3}}},
                             {{{"blocks", 2}, {"taps", 0}, {"width", 3}, {"activation", "silu"}}, false, 2},
                             {{{"blocks", 5}, {"taps", 2}, {"width", 2}, {"by", "mass"}}, false, 5},
                             {Json::object(), false, 4}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const at::Tensor sizes = values.at("lm_head.class_sizes").to(at::kLong), mix = values.at("lm_head.mix");
    const at::Tensor& weight = values.at("lm_head.weight");
    std::vector<at::Tensor> parts;
    std::int64_t begin = 0;
    for (std::int64_t index = 0; index < sizes.size(0); ++index) {
      at::Tensor features = input.hidden * mix[index][0];
      for (std::size_t depth = 0; depth < input.layers.size(); ++depth) {
        const at::Tensor& x = input.layers[depth];
        features = features + x / (x.square().mean(1, true) + 1e-5).sqrt() * mix[index][std::int64_t(depth) + 1];
      }
      const std::string name = "lm_head.blocks." + std::to_string(index);
      if (values.contains(name + ".down_proj.weight"))
        features = features + reference_phi(options.value("activation", "gelu"),
                                            input.hidden.matmul(values.at(name + ".down_proj.weight").t()))
                                  .matmul(values.at(name + ".up_proj.weight").t());
      const auto size = sizes[index].item<std::int64_t>();
      parts.push_back(features.matmul(weight.narrow(0, begin, size).t()));
      begin += size;
    }
    const at::Tensor z = at::cat(parts, 1);
    return at::zeros_like(z).index_copy(1, values.at("lm_head.word_order").to(at::kLong), z);
  };
  return {cases, logits};
}

}  // namespace lmhead
