#include "lmhead/kernels/unit_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>

namespace lmhead {

at::Tensor unit_row_scale(const at::Tensor& weight, at::ScalarType type) {
  const at::Tensor norms = at::linalg_vector_norm(weight, 2, at::IntArrayRef{1}, /*keepdim=*/false, type);
  return (norms.square() + kUnitRowEps * double(weight.size(1))).rsqrt();
}

void take_out_lengths(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& gradient) {
  constexpr std::int64_t kRows = 1024;  // at once: few enough that what they need beside stays small
  for (std::int64_t begin = 0; begin < weight.size(0); begin += kRows) {
    const std::int64_t count = std::min(kRows, weight.size(0) - begin);
    const at::Tensor rows = weight.narrow(0, begin, count).to(scale.scalar_type());
    at::Tensor of_rows = gradient.narrow(0, begin, count);
    const at::Tensor lengths = (rows * of_rows).sum(1) * scale.narrow(0, begin, count).square();
    of_rows.sub_((rows * lengths.unsqueeze(1)).to(of_rows.scalar_type()));
  }
}

}  // namespace lmhead
