// Rows of a weight that count at length 1, without a copy of the weight.
#pragma once

#include <ATen/core/Tensor.h>

namespace lmhead {

/// What each row w of `weight` [V, D] counts as is w / sqrt(|w|^2 + kUnitRowEps D): a row of zeros stays one.
inline constexpr double kUnitRowEps = 1e-12;

/// The factors of that, [V] in `type`.
at::Tensor unit_row_scale(const at::Tensor& weight, at::ScalarType type);
/// Turns `gradient` [V, D], that of the unit rows times these factors, into the gradient by the rows as they are, in
/// place: what would change a row's length alone is taken out.
void take_out_lengths(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& gradient);

}  // namespace lmhead
