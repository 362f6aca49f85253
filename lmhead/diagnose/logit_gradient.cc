#include "lmhead/diagnose/logit_gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>

#include <algorithm>

#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/projection.h"

namespace lmhead {

LogitGradient::LogitGradient(const LinearMap& map, const at::Tensor& hidden, const at::Tensor& targets)
    : map_(map),
      type_(map.weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
      hidden_(hidden.detach().to(type_)),
      targets_(targets) {
  at::NoGradGuard no_grad;
  map_.weight = map.weight.detach();
  if (map.bias.defined()) map_.bias = map.bias.detach().to(type_);
  const std::int64_t vocab_size = map_.weight.size(0), step = tile_columns();
  for (std::int64_t first = 0; first < vocab_size; first += step) {
    const at::Tensor logits = logits_of_product(product(first, std::min(step, vocab_size - first)), map_.transform);
    const at::Tensor part = at::logsumexp(logits, 1, /*keepdim=*/true);
    logsumexp_ = logsumexp_.defined() ? at::logaddexp(logsumexp_, part) : part;
  }
}

at::Tensor LogitGradient::product(std::int64_t first, std::int64_t count) const {
  at::NoGradGuard no_grad;
  const at::Tensor weight = map_.weight.narrow(0, first, count).to(type_);
  return projection(hidden_, weight, map_.bias.defined() ? map_.bias.narrow(0, first, count) : at::Tensor());
}

at::Tensor LogitGradient::of_product(const at::Tensor& product, std::int64_t first) const {
  at::NoGradGuard no_grad;
  const std::int64_t count = product.size(1);
  const at::Tensor logits = logits_of_product(product, map_.transform);
  const at::Tensor inside = targets_.ge(first).logical_and(targets_.lt(first + count));
  return plain_logit_gradient(logits, map_.transform,
                              {.shift = logsumexp_,
                               .targets = (targets_ - first).clamp(0, count - 1),
                               .target = inside.to(type_).unsqueeze(1)});
}

std::int64_t LogitGradient::tile_columns() const {
  const std::int64_t rows = std::max<std::int64_t>(hidden_.size(0), 1);
  return std::clamp<std::int64_t>((std::int64_t(1) << 25) / rows, 512, 8192);
}

}  // namespace lmhead
