#include "lmhead/kernels/distillation_pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/product_sum.h"

namespace lmhead {
namespace {

/// Numbers of one block of logits; both blocks, their logarithms and the gradient stay near the caches.
constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;

/// sum p d over each row [n, 1], where p = 0 counts nothing whatever d is.
at::Tensor mean_under(const at::Tensor& p, const at::Tensor& d) {
  return (p * d.masked_fill(p.eq(0), 0)).sum({1}, /*keepdim=*/true);
}

/// The logarithm of the mixture that JSD compares both with.
at::Tensor log_mixture(const at::Tensor& log_p, const at::Tensor& log_q, double beta) {
  return at::logaddexp(log_q + std::log(beta), log_p + std::log1p(-beta));
}

struct Rows {
  at::Tensor losses;    // [n, 1]
  at::Tensor gradient;  // [n, V] with respect to the student's logits / temperature; undefined where not wanted
};
Rows compare(const at::Tensor& log_p, const at::Tensor& log_q, const DistillationOptions& options,
             bool wants_gradient) {
  const at::Tensor p = log_p.exp(), q = log_q.exp();
  switch (options.divergence) {
    case Divergence::kForwardKl:
      return {mean_under(q, log_q - log_p), wants_gradient ? p - q : at::Tensor()};
    case Divergence::kReverseKl: {
      const at::Tensor difference = log_p - log_q, loss = mean_under(p, difference);
      return {loss, wants_gradient ? p * (difference - loss).masked_fill(p.eq(0), 0) : at::Tensor()};
    }
    default: {
      const double beta = options.beta;
      const at::Tensor log_m = log_mixture(log_p, log_q, beta), difference = log_p - log_m;
      const at::Tensor own = mean_under(p, difference);
      const at::Tensor loss = mean_under(q, log_q - log_m) * beta + own * (1 - beta);
      return {loss, wants_gradient ? p * (difference - own).masked_fill(p.eq(0), 0) * (1 - beta) : at::Tensor()};
    }
  }
}

at::Tensor cooled_log_softmax(const at::Tensor& logits, double temperature) {
  return at::log_softmax(temperature == 1 ? logits : logits / temperature, 1);
}

LinearMap detached(LinearMap map) {
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  return map;
}

}  // namespace

at::Tensor divergences(const at::Tensor& student, const at::Tensor& teacher, const DistillationOptions& options) {
  return compare(cooled_log_softmax(student, options.temperature), cooled_log_softmax(teacher, options.temperature),
                 options, false)
      .losses.squeeze(1);
}

at::Tensor reduced(const at::Tensor& losses, Reduction reduction) {
  return reduction == Reduction::kNone ? losses : reduction == Reduction::kSum ? losses.sum() : losses.mean();
}

DistillationResults distill(const DistillationArguments& arguments, const at::Tensor& upstream,
                            std::array<bool, 3> wanted) {
  const DistillationOptions& options = arguments.options;
  const at::Tensor hidden = arguments.hidden.detach(), teacher_hidden = arguments.teacher_hidden.detach();
  const LinearMap map = detached(arguments.map), teacher = detached(arguments.teacher);
  const at::ScalarType type = hidden.scalar_type(), wide = loss_type(type);
  const std::int64_t size = hidden.size(0), vocab_size = map.weight.size(0);
  const bool wants_gradient = wanted[0] || wanted[1] || wanted[2];
  at::Tensor weight = at::empty({size}, hidden.options().dtype(wide)).fill_(1);
  if (options.token_weight.defined()) weight = options.token_weight.detach().to(wide);
  const at::Tensor above = (upstream.detach().to(wide) * weight / options.temperature).unsqueeze(1);

  DistillationResults results{at::empty({size}, weight.options()), {}};
  const auto zeros = [&](const at::Tensor& like, at::ScalarType as) {
    return at::zeros(like.sizes(), like.options().dtype(as));
  };
  auto& [d_hidden, d_weight, d_bias] = results.gradients;
  if (wanted[0]) d_hidden = zeros(hidden, type);
  if (wanted[1]) d_weight = zeros(map.weight, wide);
  if (wanted[2]) d_bias = zeros(map.bias, wide);

  const std::int64_t step = std::max<std::int64_t>(1, kBlockElements / vocab_size);
  for (std::int64_t begin = 0; begin < size; begin += step) {
    const std::int64_t count = std::min(step, size - begin);
    const auto part = [&](const at::Tensor& whole) { return whole.narrow(0, begin, count); };
    const at::Tensor features = part(hidden), logits = wide_linear_logits(features, map);
    const at::Tensor theirs = wide_linear_logits(part(teacher_hidden), teacher).to(wide);
    const Rows rows = compare(cooled_log_softmax(logits, options.temperature),
                              cooled_log_softmax(theirs, options.temperature), options, wants_gradient);
    part(results.losses).copy_(rows.losses.squeeze(1) * part(weight));
    if (!wants_gradient) continue;
    at::Tensor gradient = product_gradient(rows.gradient * part(above), logits, map.transform);
    if (wanted[2]) d_bias += gradient.sum(0);
    gradient = gradient.to(type);
    if (wanted[0]) part(d_hidden).copy_(at::mm(gradient, map.weight));
    if (wanted[1]) add_product(d_weight, gradient.t(), features, wide);
  }
  if (wanted[1]) d_weight = d_weight.to(map.weight.scalar_type());
  if (wanted[2]) d_bias = d_bias.to(map.bias.scalar_type());
  return results;
}

}  // namespace lmhead
