#pragma once

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry piecewise_linear_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{{{"range", 2.5}}}, {{{"pieces", 2}}}, {{{"pieces", 4}, {"range", 1.7}}, /*tied=*/true}};
  };
  // f(z) = e^(a_middle) z + sum over knots of (slope above - slope below) relu(z - knot), and the same below 0.
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    const at::Tensor z = input.hidden.matmul((own == values.end() ? values.at(kEmbeddingName) : own->second).t());
    const at::Tensor slopes = values.at("lm_head.log_slopes").exp();
    const std::int64_t half = slopes.size(0) / 2;
    const double step = options.value("range", 12.0) / double(half);
    at::Tensor sum = slopes[half] * z.relu() - slopes[half - 1] * (-z).relu();
    for (std::int64_t knot = 1; knot < half; ++knot) {
      sum = sum + (slopes[half + knot] - slopes[half + knot - 1]) * (z - double(knot) * step).relu();
      sum = sum - (slopes[half - 1 - knot] - slopes[half - knot]) * (-z - double(knot) * step).relu();
    }
    return sum;
  };
  return {.cases = cases, .logits = logits, .takes_logit_terms = false, .difference_step = 1e-8};
}

}  // namespace lmhead
