// The plain compositions of the block operations: fallback for other devices and types, and oracle of the tests.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>

#include <vector>

#include "lmhead/kernels/block_operations.h"

namespace lmhead {

at::Tensor plain_rms_norm(const at::Tensor& input, const at::Tensor& weight, double eps, at::ScalarType type) {
  const at::Tensor x = input.scalar_type() == at::kDouble ? input : input.to(at::kFloat);
  return (x * at::rsqrt(x.square().mean(-1, true) + eps) * weight).to(type);
}

at::Tensor plain_swiglu(const at::Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

at::Tensor plain_rotary(const at::Tensor& projected, const at::Tensor& cosine, const at::Tensor& sine,
                        std::int64_t heads) {
  const std::int64_t half = cosine.size(1), all_heads = projected.size(2), width = projected.size(3);
  const at::Tensor turned = projected.narrow(2, 0, heads);
  const at::Tensor first = turned.narrow(3, 0, half), second = turned.narrow(3, half, half);
  const at::Tensor c = cosine.unsqueeze(1).to(projected.scalar_type()),
                   s = sine.unsqueeze(1).to(projected.scalar_type());
  std::vector<at::Tensor> parts{first * c - second * s, second * c + first * s};
  if (2 * half < width) parts.push_back(turned.narrow(3, 2 * half, width - 2 * half));
  const at::Tensor rotated = at::cat(parts, 3);
  if (heads == all_heads) return rotated;
  return at::cat(std::vector<at::Tensor>{rotated, projected.narrow(2, heads, all_heads - heads)}, 2);
}

}  // namespace lmhead
