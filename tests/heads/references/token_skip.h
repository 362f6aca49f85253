#pragma once

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>

#include "tests/heads/head_reference.h"
#include "tests/heads/references/joined_words.h"

namespace lmhead {

inline Entry token_skip_entry() {
  const auto cases = [](std::int64_t) {
    return std::vector<Case>{{{{"width", 3}}},
                             {{{"width", 2}, {"order", 2}, {"buckets", 7}}},
                             {{{"width", 4}, {"order", 1}}, true},
                             {{{"width", 1}, {"order", 3}}}};
  };
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto [weight, skip] = reference_joined_words(values, input.hidden.size(1), "lm_head.skip_proj.weight");
    const at::Tensor table = values.at("lm_head.skip_table.weight");
    const std::int64_t order = options.value("order", 1), buckets = table.size(0), vocab_size = weight.size(0);
    const std::int64_t sequences = input.tokens.size(0), length = input.tokens.size(1);
    at::Tensor rows = at::empty({sequences * length}, at::kLong);
    const auto token = input.tokens.accessor<std::int64_t, 2>(), document = input.documents.accessor<std::int64_t, 2>();
    for (std::int64_t b = 0; b < sequences; ++b)
      for (std::int64_t t = 0; t < length; ++t) {
        std::int64_t hash = token[b][t];
        for (std::int64_t back = 1; back < order; ++back) {
          const bool is_there = t - back >= 0 && document[b][t - back] == document[b][t];
          hash = (hash % buckets) * 1000003 + (is_there ? token[b][t - back] : vocab_size) + 1;
        }
        rows.mutable_data_ptr<std::int64_t>()[b * length + t] = hash % buckets;
      }
    return input.hidden.matmul(weight.t()) + at::embedding(table, rows).matmul(skip.t());
  };
  return {cases, logits};
}

}  // namespace lmhead
