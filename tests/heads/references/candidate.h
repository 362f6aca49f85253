#pragma once

#include <ATen/ops/full.h>

#include <cmath>
#include <limits>

#include "lmhead/heads/candidate_words.h"
#include "tests/heads/head_reference.h"
#include "tests/heads/references/residual_expansion.h"

namespace lmhead {

inline Entry candidate_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{Json::object()},
                             {{{"negatives", "strides"}, {"correction", false}}},
                             {{{"full_share", 1.0}}},
                             {{{"drawn", {{"start", 0.15}, {"end", 0.15}}}, {"negatives", "strides"}}, true},
                             {{{"drawn", {{"start", 0.0}, {"end", 0.3}, {"shape", "linear"}}}}}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    return input.hidden.matmul(reference_weight(values).t());
  };
  // Every word keeps its logit, changed by what its being there is worth: those that are not there by minus infinity.
  const auto training = [logits](const Json& options, const Values& values, const ReferenceInput& input,
                                 const at::Tensor& targets, const LossOptions&, const StepContext& step) {
    const at::Tensor z = logits(options, values, input);
    const std::int64_t vocab_size = z.size(1);
    double share = 1;
    if (options.value("full_share", 0.075) < 1) {
      const Json drawn = options.value("drawn", Json::object());
      const double start = drawn.value("start", 0.2), end = drawn.value("end", 0.5);
      const double done = double(step.step - 1) / double(step.steps - 1);  // steps 1 to `steps`
      share = start + (end - start) * (drawn.value("shape", "stages") == "linear" ? done : std::floor(4 * done) / 3);
    }
    const auto count = std::int64_t(std::llround(share * double(vocab_size)));
    at::Tensor change = at::full({vocab_size}, -std::numeric_limits<double>::infinity(), at::kDouble);
    if (share == 1) {
      change.zero_();
    } else {
      const double correction = options.value("correction", true) ? -std::log(double(count) / double(vocab_size)) : 0;
      for (const std::int64_t id : draw_words(step, vocab_size, count, options.value("negatives", "") == "strides"))
        change[id] = correction;
      change.index_fill_(0, targets, 0);
    }
    return -(z + change).log_softmax(1).gather(1, targets.unsqueeze(1)).mean();
  };
  return {cases, logits, /*takes_logit_terms=*/false, training};
}

}  // namespace lmhead
