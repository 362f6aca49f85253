// The factorised head of the paper's rank ladder.
#pragma once

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// z = A (B h), A: V x k, B: k x D (Godey & Artzi, arXiv 2603.10145): 2 k (V + D) FLOPs a token forward.
struct LowRankHeadOptions : HeadOptions {
  std::int64_t rank = 16;
  void visit_fields(FieldVisitor& visitor) override;
};

std::unique_ptr<LmHead> make_low_rank_head(const HeadOptions& options, const HeadContext& context);

}  // namespace lmhead
