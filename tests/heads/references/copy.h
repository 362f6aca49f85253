#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "tests/heads/head_reference.h"

namespace lmhead {

inline Entry copy_entry() {
  const auto cases = [](std::int64_t hidden_size) {
    // Of one dimension nothing but signs is left of normed queries and keys: their gradients are 0.
    if (hidden_size == 1) return std::vector<Case>{};
    return std::vector<Case>{{{{"width", 3}}},
                             {{{"width", 5}, {"gate", "sigmoid"}, {"band", 3}}},
                             {{{"width", 6}, {"logit_softcap", 2.0}}, true},
                             {{{"width", 4}, {"band", 1}}}};
  };
  // Row by row, position by position: p = (1 - alpha) p_lm + alpha (a_sink p_lm + sum_s a_s onehot(x_s)).
  const auto logits = [](const Json& options, const Values& values, const ReferenceInput& input) {
    const auto own = values.find("lm_head.weight");
    const at::Tensor weight = own == values.end() ? values.at(kEmbeddingName) : own->second;
    const double cap = options.value("logit_softcap", 0.0), width = options["width"].get<double>();
    const auto capped = [&](const at::Tensor& z) { return cap > 0 ? cap * at::tanh(z / cap) : z; };
    const auto unit = [](const at::Tensor& rows) { return rows / (rows.square().mean(1, true) + 1e-6).sqrt(); };
    const at::Tensor words = capped(input.hidden.matmul(weight.t()));
    const at::Tensor gate = input.hidden.matmul(values.at("lm_head.copy_gate.weight").t());
    const at::Tensor p_lm = words.softmax(1);
    const at::Tensor alpha = options.value("gate", "slot") == "slot"
                                 ? at::cat({words, capped(gate)}, 1).softmax(1).narrow(1, words.size(1), 1)
                                 : gate.sigmoid();
    const at::Tensor keys = unit(input.hidden.matmul(values.at("lm_head.copy_key.weight").t()));
    const at::Tensor queries = unit(input.hidden.matmul(values.at("lm_head.copy_query.weight").t())) *
                               values.at("lm_head.copy_query_norm.weight");
    const std::int64_t sequences = input.tokens.size(0), length = input.tokens.size(1);
    const std::int64_t band = options.value("band", length);
    std::vector<at::Tensor> rows;
    for (std::int64_t b = 0; b < sequences; ++b)
      for (std::int64_t t = 0; t < length; ++t) {
        const at::Tensor query = queries[b * length + t] / std::sqrt(width);
        std::vector<at::Tensor> scores = {query.dot(values.at("lm_head.copy_sink"))};
        std::vector<std::int64_t> ids;
        for (std::int64_t s = std::max<std::int64_t>(0, t - band + 1); s <= t; ++s) {
          if (!input.documents[b][s].equal(input.documents[b][t])) continue;
          scores.push_back(query.dot(keys[b * length + s]));
          ids.push_back(input.tokens[b][s].item<std::int64_t>());
        }
        const at::Tensor a = at::stack(scores).softmax(0), one = alpha[b * length + t];
        at::Tensor p = p_lm[b * length + t] * (1 - one + one * a[0]);
        for (std::size_t index = 0; index < ids.size(); ++index) {
          at::Tensor copied = at::zeros_like(p);
          copied[ids[index]] = 1.0;
          p = p + one * a[std::int64_t(index) + 1] * copied;
        }
        rows.push_back(p);
      }
    return at::stack(rows).log();
  };
  return {cases, logits, /*takes_logit_terms=*/false};
}

}  // namespace lmhead
