// The matrix of words with columns beside it that see further features.
#pragma once

#include <string>

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// [W, U], V x (D + k): one parameter, so that no step joins the two, unless W is the embedding. U begins at zero.
struct JoinedWords {
  ParameterPtr weight;  // [W, U], or W where that is the embedding
  ParameterPtr beside;  // U there, else null

  /// What the head itself has of the two.
  const ParameterPtr& own() const { return beside ? beside : weight; }
  at::Tensor value() const;
  at::Tensor working() const;
};

/// `name` is U's where it is a parameter of its own; the other is `lm_head.weight`, W in it as the linear head's.
JoinedWords joined_words(const HeadContext& context, std::int64_t width, const std::string& name);

}  // namespace lmhead
