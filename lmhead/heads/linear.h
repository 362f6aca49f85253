// The linear head of a map that is already there.
#pragma once

#include <memory>

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// The head whose logits are `map`, which was made elsewhere: no parameters of its own.
std::unique_ptr<LmHead> make_linear_head(const LinearMap& map);

}  // namespace lmhead
