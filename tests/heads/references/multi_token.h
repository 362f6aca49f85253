#pragma once

#include <ATen/ops/tensor.h>

#include "tests/heads/head_reference.h"
#include "tests/heads/references/residual_expansion.h"

namespace lmhead {

inline Entry multi_token_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{Json::object()},
                             {{{"targets", 1}, {"width", 3}}, true},
                             {{{"targets", 3}, {"weight", {{"start", 0.25}, {"end", 1.0}, {"shape", "constant"}}}}}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    return input.hidden.matmul(reference_weight(values).t());
  };
  const auto training = [logits](const Json& options, const Values& values, const ReferenceInput& input,
                                 const at::Tensor& targets, const LossOptions& loss, const StepContext& step) {
    at::Tensor sum = reference_loss(logits(options, values, input), targets, loss);
    const double weight =
        options.contains("weight") ? 0.25 : 0.5 * (1 - double(step.step - 1) / double(step.steps - 1));
    const std::int64_t length = input.tokens.size(1), count = targets.size(0);
    for (std::int64_t ahead = 1; ahead <= options.value("targets", 2); ++ahead) {
      std::vector<std::int64_t> rows, wanted;
      for (std::int64_t row = 0; row < count; ++row)
        if (row % length + ahead < length) {
          rows.push_back(row);
          wanted.push_back(targets[row + ahead].item<std::int64_t>());
        }
      if (rows.empty()) continue;
      const std::string name = "lm_head.ahead." + std::to_string(ahead);
      const at::Tensor hidden = input.hidden.index_select(0, at::tensor(rows, at::kLong));
      const at::Tensor inner = reference_phi("silu", hidden.matmul(values.at(name + ".down_proj.weight").t()));
      const at::Tensor features = hidden + inner.matmul(values.at(name + ".up_proj.weight").t());
      sum = sum +
            weight * reference_loss(features.matmul(reference_weight(values).t()), at::tensor(wanted, at::kLong), loss);
    }
    return sum;
  };
  return {cases, logits, /*takes_logit_terms=*/true, training, /*training_only=*/{"lm_head.ahead"}};
}

}  // namespace lmhead
