#include "lmhead/heads/head_pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/logsumexp.h>

#include <algorithm>

#include "lmhead/kernels/plain_logits.h"

namespace lmhead {
namespace {

/// 2 MiB of float32 stay in the caches, and are no new pages from the system each time.
constexpr std::int64_t kBlockElements = std::int64_t(1) << 19;

}  // namespace

void for_each_logit_block(const HeadPass& pass, const std::function<void(std::int64_t, const at::Tensor&)>& use) {
  const at::Tensor& weight = pass.map->weight;
  const std::int64_t size = pass.hidden.size(0), step = std::max<std::int64_t>(1, kBlockElements / weight.size(0));
  for (std::int64_t first = 0; first < size; first += step) {
    const std::int64_t rows = std::min(step, size - first);
    use(first, linear_logits(pass.hidden.narrow(0, first, rows).to(weight.scalar_type()), *pass.map));
  }
}

at::Tensor logit_gradient(const HeadPass& pass, std::int64_t first, const at::Tensor& logits) {
  const double smoothing = pass.loss.label_smoothing;
  const at::Tensor logsumexp = at::logsumexp(logits, 1, /*keepdim=*/true);
  LogitGradientTerms terms{.shift = logsumexp, .targets = pass.targets.narrow(0, first, logits.size(0))};
  if (pass.loss.z_loss != 0) terms.factor = 1 + 2 * pass.loss.z_loss * logsumexp;
  if (smoothing != 0) terms.smoothing = at::full_like(logsumexp, smoothing / double(logits.size(1)));
  terms.target = at::full_like(logsumexp, 1 - smoothing);
  return plain_logit_gradient(logits, pass.map->transform, terms);
}

}  // namespace lmhead
