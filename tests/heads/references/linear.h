#pragma once

#include <ATen/ops/tanh.h>

#include "lmhead/kernels/linear_cross_entropy.h"
#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry linear_entry() {
  const auto cases = [](std::int64_t) {
    const Json everything = {{"bias", true}, {"logit_softcap", 3.0}, {"mup_base_width", 6}};
    const Json capped = {{"sigmoid_cap", {7.0, 1.0, 2.5}}, {"mean_row_penalty", 0.3}};
    return std::vector<Case>{
        {Json::object()}, {{{"bias", true}}},     {{{"logit_softcap", 2.5}}},  {{{"mup_base_width", 6}}},
        {everything},     {Json::object(), true}, {everything, true},          {{{"center_rows", true}}},
        {capped},         {capped, true},         {{{"initializer_range", 0}}}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    at::Tensor z = input.hidden.matmul((own == values.end() ? values.at(kEmbeddingName) : own->second).t());
    if (options.value("bias", false)) z = z + values.at("lm_head.bias");
    if (options.contains("mup_base_width"))
      z = z * (options["mup_base_width"].get<double>() / double(input.hidden.size(1)));
    if (options.contains("sigmoid_cap")) {
      const auto cap = options["sigmoid_cap"].get<std::vector<double>>();
      return cap[0] / (1 + (-(z + cap[1]) / cap[2]).exp());
    }
    const double cap = options.value("logit_softcap", 0.0);
    return cap > 0 ? cap * at::tanh(z / cap) : z;
  };
  const auto training = [logits](const Json& options, const Values& values, const ReferenceInput& input,
                                 const at::Tensor& targets, const LossOptions& loss, const StepContext&) {
    const auto own = values.find("lm_head.weight");
    const at::Tensor mean = (own == values.end() ? values.at(kEmbeddingName) : own->second).mean(0);
    return plain_cross_entropy(logits(options, values, input), targets,
                               {.label_smoothing = loss.label_smoothing, .z_loss = loss.z_loss}) +
           options.value("mean_row_penalty", 0.0) * mean.square().sum();
  };
  return {cases, logits, /*takes_logit_terms=*/true, training};
}

}  // namespace lmhead
