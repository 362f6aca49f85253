// What every head's file gives to the list in registry.cc.
#pragma once

#include "lmhead/heads/lm_head.h"

namespace lmhead {

HeadKind linear_head();
HeadKind low_rank_head();
HeadKind expanded_head();
HeadKind two_level_head();
HeadKind adaptive_head();
HeadKind residual_expansion_head();
HeadKind candidate_head();
HeadKind multi_token_head();
HeadKind multi_exit_head();
HeadKind multi_resolution_head();
HeadKind depth_tapped_head();
HeadKind mixture_of_softmaxes_head();
HeadKind sigsoftmax_head();
HeadKind piecewise_linear_head();
HeadKind normalized_head();
HeadKind token_skip_head();
HeadKind copy_head();
HeadKind multi_facet_head();

/// Throws where the loss has terms that are made of logits, for the head `name`, whose probabilities are not.
void require_no_logit_terms(const LossOptions& options, const char* name);

/// The line of `Head`, which is built from its `Options` and a context.
template <class Head, class Options>
HeadKind describe_head(const char* type, const char* formula, const char* cost, const char* memory,
                       const char* source) {
  return {type,
          formula,
          cost,
          memory,
          source,
          []() -> std::unique_ptr<HeadOptions> { return std::make_unique<Options>(); },
          [](const HeadOptions& options, const HeadContext& context) -> std::unique_ptr<LmHead> {
            return std::make_unique<Head>(dynamic_cast<const Options&>(options), context);
          }};
}

}  // namespace lmhead
