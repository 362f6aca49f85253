#pragma once

#include <string>
#include <utility>

#include "tests/heads/head_reference.h"

namespace lmhead {

/// The head's own matrix, or the embedding where the two are tied.
inline const at::Tensor& reference_weight(const Values& values) {
  const auto own = values.find("lm_head.weight");
  return own == values.end() ? values.at(kEmbeddingName) : own->second;
}

/// W and U of [W, U], W of so many columns; U is `name` where W is the embedding.
inline std::pair<at::Tensor, at::Tensor> reference_joined_words(const Values& values, std::int64_t hidden_size,
                                                                const std::string& name) {
  const at::Tensor& weight = reference_weight(values);
  if (values.contains(name)) return {weight, values.at(name)};
  return {weight.narrow(1, 0, hidden_size), weight.narrow(1, hidden_size, weight.size(1) - hidden_size)};
}

}  // namespace lmhead
