#include "lmhead/kernels/logsumexp_pass.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "lmhead/kernels/fused_rows.h"
#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/product_sum.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

bool is_tiled(const LogsumexpArguments& arguments) {
  return arguments.hidden.is_cpu() && has_kernel_type(arguments.hidden);
}

LogsumexpArguments detached(const LogsumexpArguments& arguments) {
  LogsumexpArguments result = arguments;
  for (at::Tensor* tensor : {&result.hidden, &result.map.weight, &result.map.bias, &result.temperature})
    if (tensor->defined()) *tensor = tensor->detach();
  return result;
}

std::vector<double> numbers_of(const at::Tensor& row) {
  if (!row.defined()) return {};
  const at::Tensor numbers = row.detach().to(at::kDouble).contiguous();
  return {numbers.const_data_ptr<double>(), numbers.const_data_ptr<double>() + numbers.numel()};
}

LogitPass pass_of(const LogsumexpArguments& arguments) {
  LogitPass pass;
  pass.hidden = arguments.hidden.contiguous();
  pass.map = arguments.map;
  pass.map.weight = arguments.map.weight.contiguous();
  pass.inverse_temperature = numbers_of(arguments.temperature);
  for (double& number : pass.inverse_temperature) number = 1 / number;
  return pass;
}

at::Tensor tiled_forward(const LogsumexpArguments& arguments, bool with_entropy) {
  at::Tensor row_sums = at::zeros({arguments.hidden.size(0), 3}, at::kDouble);
  double* sums = row_sums.mutable_data_ptr<double>();
  LogitPass pass = pass_of(arguments);
  pass.wants_more = with_entropy;
  pass.on_row = [&](std::int64_t row, const RowOutcome& outcome) {
    sums[3 * row] = outcome.max;
    sums[3 * row + 1] = outcome.logsumexp;
    if (with_entropy) sums[3 * row + 2] = outcome.entropy;
    return RowFactors{};
  };
  pass.run();
  return row_sums;
}

std::array<at::Tensor, 3> tiled_backward(const LogsumexpArguments& arguments, const std::vector<double>& of_logsumexp,
                                         const std::vector<double>& of_entropy, const at::Tensor& row_sums,
                                         std::array<bool, 3> wanted) {
  const std::vector<double> sums = numbers_of(row_sums.reshape({-1}));
  LogitPass pass = pass_of(arguments);
  pass.wants_hidden = wanted[0], pass.wants_weight = wanted[1], pass.wants_bias = wanted[2];
  for (std::size_t row = 0; row < of_logsumexp.size(); ++row) {
    const double max = sums[3 * row], logsumexp = sums[3 * row + 1], entropy = sums[3 * row + 2];
    double scale = arguments.map.transform.scale;
    if (!pass.inverse_temperature.empty()) scale *= pass.inverse_temperature[row];
    RowFactors factors{.max = max, .logsumexp = logsumexp, .probability = scale * of_logsumexp[row]};
    if (!of_entropy.empty()) {  // d entropy / d z_u = -p_u (log p_u + entropy)
      factors.probability -= scale * of_entropy[row] * (max - logsumexp + entropy);
      factors.moment = -scale * of_entropy[row];
    }
    pass.factors.push_back(factors);
  }
  pass.run();
  std::array<at::Tensor, 3> gradients;
  if (wanted[0]) gradients[0] = pass.d_hidden.to(arguments.hidden.scalar_type());
  if (wanted[1]) gradients[1] = pass.d_weight.to(arguments.map.weight.scalar_type());
  if (wanted[2]) gradients[2] = pass.d_bias.to(arguments.map.bias.scalar_type());
  return gradients;
}

/// Calls `work(begin, arguments of these rows)` for chunks whose logits have at most 64 Mi elements, or of what the row
/// kernel takes.
template <class Work>
void for_each_chunk(const LogsumexpArguments& arguments, bool is_fused, const Work& work) {
  const std::int64_t size = arguments.hidden.size(0), vocab_size = arguments.map.weight.size(0);
  const std::int64_t step =
      is_fused ? FusedRows::rows_per_chunk(arguments.hidden, vocab_size) : tile_sizes::rows_per_chunk(vocab_size);
  for (std::int64_t begin = 0; begin < size; begin += step) {
    const std::int64_t rows = std::min(step, size - begin);
    LogsumexpArguments part = arguments;
    part.hidden = arguments.hidden.narrow(0, begin, rows);
    if (part.temperature.defined()) part.temperature = arguments.temperature.narrow(0, begin, rows).unsqueeze(1);
    work(begin, part);
  }
}

at::Tensor cooled(const LogsumexpArguments& part, const at::Tensor& logits) {
  return part.temperature.defined() ? logits / part.temperature.to(logits.scalar_type()) : logits;
}

/// The rows of a chunk through the row kernel: writes their largest logit and logsumexp to `sums` [n, 2] and their
/// figures to `figures` [n, kFiguresOfRow] where that is defined, and gives the gradient with respect to the products
/// for `upstream` [n], where that is defined.
at::Tensor run_fused(const FusedRows& kernel, const LogsumexpArguments& part, const at::Tensor& upstream,
                     const at::Tensor& sums, const at::Tensor& figures = {}) {
  const at::Tensor products = at::mm(part.hidden, part.map.weight.t());
  const TaskNumbers bias(part.map.bias), temperature(part.temperature), above(upstream);
  const at::Tensor losses = at::empty({products.size(0)}, products.options().dtype(at::kFloat));
  kernel.run(products, {.transform = part.map.transform,
                        .bias = bias,
                        .temperature = temperature,
                        .upstream = above,
                        .upstream_stride = 1,
                        .losses = losses.mutable_data_ptr<float>(),
                        .row_sums = sums.mutable_data_ptr<double>(),
                        .figures = figures.defined() ? figures.mutable_data_ptr<float>() : nullptr});
  return products;
}

at::Tensor chunked_forward(const LogsumexpArguments& arguments, bool with_entropy) {
  at::Tensor row_sums = at::zeros({arguments.hidden.size(0), 3}, arguments.hidden.options().dtype(at::kDouble));
  const auto kernel = FusedRows::of(arguments.hidden);
  for_each_chunk(arguments, kernel.has_value(), [&](std::int64_t begin, const LogsumexpArguments& part) {
    const at::Tensor of_part = row_sums.narrow(0, begin, part.hidden.size(0));
    if (kernel) {
      const at::Tensor sums = at::empty({of_part.size(0), 2}, row_sums.options());
      at::Tensor figures;
      if (with_entropy) figures = at::empty({of_part.size(0), kFiguresOfRow}, sums.options().dtype(at::kFloat));
      run_fused(*kernel, part, {}, sums, figures);
      of_part.narrow(1, 0, 2).copy_(sums);
      if (with_entropy) of_part.select(1, 2).copy_(figures.select(1, std::int64_t(RowFigure::kEntropy)));
      return;
    }
    const at::Tensor logits = cooled(part, wide_linear_logits(part.hidden, part.map));
    const at::Tensor max = logits.amax({1}, true), around = logits - max, lse = around.logsumexp({1}, true);
    std::vector<at::Tensor> sums{max.to(at::kDouble), max.to(at::kDouble) + lse.to(at::kDouble)};
    at::Tensor entropy = at::zeros_like(sums[0]);
    if (with_entropy) {
      const at::Tensor p = (around - lse).exp();
      entropy = (lse - (p * around.masked_fill(p.eq(0), 0)).sum({1}, true)).to(at::kDouble);
    }
    sums.push_back(entropy);
    of_part.copy_(at::cat(sums, 1));
  });
  return row_sums;
}

std::array<at::Tensor, 3> chunked_backward(const LogsumexpArguments& arguments, const at::Tensor& of_logsumexp,
                                           const at::Tensor& of_entropy, const at::Tensor& row_sums,
                                           std::array<bool, 3> wanted) {
  const at::ScalarType type = arguments.hidden.scalar_type(), wide = loss_type(type);
  const auto zeros = [&](const at::Tensor& like, at::ScalarType as) {
    return at::zeros(like.sizes(), like.options().dtype(as));
  };
  std::array<at::Tensor, 3> sums;
  if (wanted[0]) sums[0] = zeros(arguments.hidden, type);
  if (wanted[2]) sums[2] = zeros(arguments.map.bias, wide);
  const auto kernel = of_entropy.defined() ? std::nullopt : FusedRows::of(arguments.hidden);
  const auto gradient_of = [&](std::int64_t begin, const LogsumexpArguments& part) {
    const std::int64_t rows = part.hidden.size(0);
    if (kernel)
      return run_fused(*kernel, part, of_logsumexp.narrow(0, begin, rows), at::empty({rows, 2}, row_sums.options()));
    const auto column = [&](const at::Tensor& whole) { return whole.narrow(0, begin, rows).to(wide).unsqueeze(1); };
    const auto sum = [&](std::int64_t which) { return row_sums.narrow(0, begin, rows).narrow(1, which, 1); };
    const at::Tensor logits = wide_linear_logits(part.hidden, part.map);
    const at::Tensor around = cooled(part, logits) - sum(0).to(wide), lse = (sum(1) - sum(0)).to(wide);
    const at::Tensor p = (around - lse).exp();
    at::Tensor gradient = p * column(of_logsumexp);
    if (of_entropy.defined())
      gradient = gradient - p * (around.masked_fill(p.eq(0), 0) - lse + sum(2).to(wide)) * column(of_entropy);
    return product_gradient(cooled(part, gradient), logits, part.map.transform);
  };
  for_each_chunk(arguments, kernel.has_value(), [&](std::int64_t begin, const LogsumexpArguments& part) {
    const std::int64_t rows = part.hidden.size(0);
    at::Tensor gradient = gradient_of(begin, part);
    if (wanted[2]) sums[2] += gradient.sum({0}, /*keepdim=*/false, wide);
    gradient = gradient.to(type);
    if (wanted[0]) sums[0].narrow(0, begin, rows).copy_(at::mm(gradient, part.map.weight));
    if (wanted[1]) add_product(sums[1], gradient.t(), part.hidden, wide);
  });
  if (wanted[1] && !sums[1].defined()) sums[1] = at::zeros_like(arguments.map.weight);  // no rows
  if (wanted[1]) sums[1] = sums[1].to(arguments.map.weight.scalar_type());
  if (wanted[2]) sums[2] = sums[2].to(arguments.map.bias.scalar_type());
  return sums;
}

}  // namespace

at::Tensor logsumexp_forward(const LogsumexpArguments& given, bool with_entropy) {
  const LogsumexpArguments arguments = detached(given);
  return is_tiled(arguments) ? tiled_forward(arguments, with_entropy) : chunked_forward(arguments, with_entropy);
}

std::array<at::Tensor, 3> logsumexp_backward(const LogsumexpArguments& given, const at::Tensor& of_logsumexp,
                                             const at::Tensor& of_entropy, const at::Tensor& row_sums,
                                             std::array<bool, 3> wanted) {
  const LogsumexpArguments arguments = detached(given);
  if (!is_tiled(arguments)) return chunked_backward(arguments, of_logsumexp, of_entropy, row_sums, wanted);
  return tiled_backward(arguments, numbers_of(of_logsumexp), numbers_of(of_entropy), row_sums, wanted);
}

}  // namespace lmhead
