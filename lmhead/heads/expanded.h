// A head whose width differs from the body's.
#pragma once

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// z = W phi(E h), E: width x D, W: V x width: 2 width (V + D) FLOPs a token forward. The Jacobian of a
/// token's logits by its features keeps rank D at most whatever the width; with an activation tokens do not share one
/// subspace.
struct ExpandedHeadOptions : HeadOptions {
  std::int64_t width = 512;
  std::string activation = "none";
  void visit_fields(FieldVisitor& visitor) override;
};

std::unique_ptr<LmHead> make_expanded_head(const HeadOptions& options, const HeadContext& context);

}  // namespace lmhead
