// The dense linear head.
#pragma once

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// z = softcap(s (W h + b)): V x D parameters, or none of its own where it is tied to the embedding.
struct LinearHeadOptions : HeadOptions {
  bool bias = false;
  double logit_softcap = 0;
  std::optional<std::int64_t> mup_base_width;
  std::optional<double> initializer_range;
  void visit_fields(FieldVisitor& visitor) override;
};

std::unique_ptr<LmHead> make_linear_head(const HeadOptions& options, const HeadContext& context);

/// The head whose logits are `map`, which was made elsewhere: no parameters of its own.
std::unique_ptr<LmHead> make_linear_head(const LinearMap& map);

}  // namespace lmhead
