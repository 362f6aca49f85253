// The list of heads as everybody outside is told it.
#pragma once

#include "lmhead/base/json.h"
#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// Type, formula, cost, memory, source, and every key with its type, default and meaning.
Json describe_head_kind(const HeadKind& kind);
/// That of every head there is, in the order of the list.
Json describe_heads();

}  // namespace lmhead
