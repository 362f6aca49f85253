// What can be said of every token under a head that is no linear map.
#pragma once

#include <ATen/core/Tensor.h>

#include "lmhead/diagnose/head_space.h"
#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// `total` = ||p - y||^2 at the logits, `log_probability` and `correct` of the rows that `input` asks for, with
/// `targets` [n]; the other members, which a column space is needed for, are NaN. Memory: a block of logits.
TokenEnergies nonlinear_energies(const LmHead& head, const HeadInput& input, const at::Tensor& targets);

}  // namespace lmhead
