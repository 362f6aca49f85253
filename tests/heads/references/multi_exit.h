#pragma once

#include <cmath>

#include "tests/heads/head_reference.h"
#include "tests/heads/references/residual_expansion.h"

namespace lmhead {

inline Entry multi_exit_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{Json::object()},
                             {{{"exits", 3}, {"weight", {{"start", 0.8}, {"end", 0.1}, {"shape", "constant"}}}}},
                             {{{"exits", 2}}, true}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    return input.hidden.matmul(reference_weight(values).t());
  };
  const auto training = [logits](const Json& options, const Values& values, const ReferenceInput& input,
                                 const at::Tensor& targets, const LossOptions& loss, const StepContext& step) {
    at::Tensor sum = reference_loss(logits(options, values, input), targets, loss);
    const bool is_constant = options.contains("weight");
    const double weight = is_constant ? 0.8 : 0.3 * (1 - double(step.step - 1) / double(step.steps - 1));
    for (std::size_t exit = 0; exit < input.layers.size(); ++exit) {
      const at::Tensor& x = input.layers[exit];
      const at::Tensor features = x / (x.square().mean(1, true) + 1e-5).sqrt() *
                                  values.at("lm_head.exit_norms." + std::to_string(exit) + ".weight");
      sum = sum + weight * reference_loss(features.matmul(reference_weight(values).t()), targets, loss);
    }
    return sum;
  };
  return {cases, logits, /*takes_logit_terms=*/true, training, /*training_only=*/{"lm_head.exit_norms", "layer"}};
}

}  // namespace lmhead
