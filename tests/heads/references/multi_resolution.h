#pragma once

#include <ATen/ops/zeros_like.h>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry multi_resolution_entry() {
  const auto cases = [](std::int64_t) {
    const Json slow = {{"start", 0.4}, {"end", 0.1}, {"shape", "constant"}};
    return std::vector<Case>{{Json::object()},
                             {{{"classes", {2, 5}}, {"by", "sqrt"}, {"weight", slow}}, false, 5},
                             {{{"classes", {3}}, {"by", "bytes"}, {"prefix", true}}, false, 3},
                             {{{"prefix", true}, {"prefix_weight", slow}}}};
  };
  const auto logits = [](const Json&, const Values& values, const ReferenceInput& input) {
    const at::Tensor z = input.hidden.matmul(values.at("lm_head.weight").t());
    return at::zeros_like(z).index_copy(1, values.at("lm_head.word_order").to(at::kLong), z);
  };
  const auto training = [logits](const Json& options, const Values& values, const ReferenceInput& input,
                                 const at::Tensor& targets, const LossOptions& loss, const StepContext& step) {
    const at::Tensor z = logits(options, values, input), p = z.softmax(1);
    const double left = 1 - double(step.step - 1) / double(step.steps - 1);
    const double weight = options.contains("weight") ? 0.4 : 0.5 * left;
    const double of_prefix = options.contains("prefix_weight") ? 0.4 : 0.25 * left;
    at::Tensor sum = reference_loss(z, targets, loss);
    const at::Tensor order = values.at("lm_head.word_order").to(at::kLong);
    for (int level = 0; values.contains("lm_head.class_sizes." + std::to_string(level)); ++level) {
      const at::Tensor sizes = values.at("lm_head.class_sizes." + std::to_string(level)).to(at::kLong);
      const at::Tensor classes = at::zeros_like(order);  // by id
      std::int64_t begin = 0;
      for (std::int64_t index = 0; index < sizes.size(0); ++index) {
        const auto size = sizes[index].item<std::int64_t>();
        classes.index_fill_(0, order.narrow(0, begin, size), index);
        begin += size;
      }
      const at::Tensor is_of_class = classes.unsqueeze(0).eq(classes.index_select(0, targets).unsqueeze(1));
      sum = sum - weight * (p * is_of_class).sum(1).log().mean();
    }
    if (options.value("prefix", false)) {
      const at::Tensor second = values.at("lm_head.prefix_of").to(at::kLong).index_select(0, targets);
      sum = sum - of_prefix * p.gather(1, second.unsqueeze(1)).log().mean();
    }
    return sum;
  };
  return {cases, logits, /*takes_logit_terms=*/true, training};
}

}  // namespace lmhead
