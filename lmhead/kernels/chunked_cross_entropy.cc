// linear_cross_entropy by ATen operations over chunks of rows, for devices and types without a kernel of their own.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "lmhead/kernels/cross_entropy_rows.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

/// Row weights of the whole batch, each [N] in the type of the loss.
struct Rows {
  at::Tensor kept, target, class_weight, token_weight, denominator;
  at::Tensor all_class_weight;  // [V] or undefined
  at::Tensor class_weight_sum;  // 0-dim
  at::ScalarType type;
};

Rows prepare(const CrossEntropyArguments& arguments) {
  const LinearCrossEntropyOptions& options = arguments.options;
  Rows rows;
  rows.type = loss_type(arguments.hidden.scalar_type());
  const auto of_type = arguments.hidden.options().dtype(rows.type);
  rows.kept = arguments.targets.ne(options.ignore_index);
  rows.target = at::where(rows.kept, arguments.targets, at::zeros_like(arguments.targets));
  const std::int64_t vocab_size = arguments.map.weight.size(0);
  rows.class_weight_sum = at::ones({}, of_type) * vocab_size;
  rows.class_weight = rows.kept.to(rows.type);
  if (options.class_weight.defined()) {
    rows.all_class_weight = options.class_weight.detach().to(rows.type);
    rows.class_weight_sum = rows.all_class_weight.sum();
    rows.class_weight = rows.class_weight * rows.all_class_weight.index_select(0, rows.target);
  }
  rows.denominator = options.reduction == Reduction::kMean ? rows.class_weight.sum() : at::ones({}, of_type);
  rows.token_weight = rows.kept.to(rows.type);
  if (options.token_weight.defined())
    rows.token_weight = at::where(rows.kept, options.token_weight.detach().to(rows.type), rows.token_weight);
  return rows;
}

/// Calls `work(begin, rows)` for chunks whose logits have at most 64 Mi elements.
template <class Work>
void for_each_chunk(const CrossEntropyArguments& arguments, const Work& work) {
  const std::int64_t size = arguments.hidden.size(0);
  const std::int64_t rows =
      std::max<std::int64_t>(1, 2 * tile_sizes::kBlockBytes / static_cast<std::int64_t>(sizeof(float)) /
                                    std::max<std::int64_t>(1, arguments.map.weight.size(0)));
  for (std::int64_t begin = 0; begin < size; begin += rows) work(begin, std::min(rows, size - begin));
}

at::Tensor chunk_logits(const CrossEntropyArguments& arguments, std::int64_t begin, std::int64_t rows,
                        at::ScalarType type) {
  LinearMap map = arguments.map;
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  return linear_logits(arguments.hidden.detach().narrow(0, begin, rows), map).to(type);
}

/// Adds the gradients of a chunk of rows whose loss has the factors `upstream` [rows].
void add_gradients(const CrossEntropyArguments& arguments, const Rows& rows, std::int64_t begin, at::Tensor logits,
                   const at::Tensor& row_sums, const at::Tensor& upstream, const WantedGradients& wanted,
                   CrossEntropyGradients& sums) {
  const LinearCrossEntropyOptions& options = arguments.options;
  const std::int64_t size = logits.size(0);
  const double smoothing = options.label_smoothing, classes = static_cast<double>(logits.size(1));
  const auto part = [&](const at::Tensor& whole) { return whole.narrow(0, begin, size); };
  const at::Tensor target = (1 - smoothing) * part(rows.class_weight);
  const at::Tensor max = row_sums.select(1, 0), lse = row_sums.select(1, 1);
  const at::Tensor probability =
      target + smoothing / classes * rows.class_weight_sum + 2 * options.z_loss * lse.to(rows.type);
  // The same exponentials as in the sum, so that their rounding cancels in p.
  at::Tensor gradient =
      (logits - max.to(rows.type).unsqueeze(1)).exp() * (probability * (max - lse).exp().to(rows.type)).unsqueeze(1);
  if (smoothing != 0) {
    const double share = smoothing / classes;
    gradient = rows.all_class_weight.defined() ? gradient - share * rows.all_class_weight : gradient - share;
  }
  gradient.scatter_add_(1, part(rows.target).unsqueeze(1), at::Tensor(-target.unsqueeze(1)));
  const at::Tensor scale = upstream * part(rows.token_weight) * arguments.map.logit_scale;
  gradient = at::where(part(rows.kept).unsqueeze(1), gradient * scale.unsqueeze(1), at::zeros_like(gradient));
  if (arguments.map.logit_softcap > 0) gradient = gradient * (1 - (logits / arguments.map.logit_softcap).square());
  if (wanted.bias) sums.bias += gradient.sum(0);
  gradient = gradient.to(arguments.hidden.scalar_type());
  if (wanted.hidden) sums.hidden.narrow(0, begin, size).copy_(at::mm(gradient, arguments.map.weight.detach()));
  if (wanted.weight) sums.weight += at::mm(gradient.t(), arguments.hidden.detach().narrow(0, begin, size));
}

CrossEntropyGradients empty_sums(const CrossEntropyArguments& arguments, at::ScalarType type,
                                 const WantedGradients& wanted) {
  CrossEntropyGradients sums;
  const auto zeros = [&](const at::Tensor& like, at::ScalarType as) {
    return at::zeros(like.sizes(), like.options().dtype(as));
  };
  if (wanted.hidden) sums.hidden = zeros(arguments.hidden, arguments.hidden.scalar_type());
  if (wanted.weight) sums.weight = zeros(arguments.map.weight, type);
  if (wanted.bias) sums.bias = zeros(arguments.map.bias, type);
  return sums;
}

CrossEntropyGradients in_own_types(const CrossEntropyArguments& arguments, CrossEntropyGradients sums) {
  if (sums.weight.defined()) sums.weight = sums.weight.to(arguments.map.weight.scalar_type());
  if (sums.bias.defined()) sums.bias = sums.bias.to(arguments.map.bias.scalar_type());
  return sums;
}

/// Statistics of a chunk of rows; zeros where the target is ignored.
TokenStatistics chunk_statistics(const CrossEntropyArguments& arguments, const Rows& rows, std::int64_t begin,
                                 std::int64_t size, bool with_gradient) {
  LinearMap map = arguments.map;
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  TokenStatistics statistics = plain_token_statistics(arguments.hidden.detach().narrow(0, begin, size), map,
                                                      rows.target.narrow(0, begin, size), with_gradient);
  const at::Tensor kept = rows.kept.narrow(0, begin, size);
  for (auto column : kTokenStatistics) {
    at::Tensor& values = statistics.*column;
    if (!values.defined()) continue;
    values = at::where(values.dim() == 2 ? kept.unsqueeze(1) : kept, values, at::zeros_like(values));
  }
  return statistics;
}

TokenStatistics joined(const std::vector<TokenStatistics>& parts) {
  TokenStatistics all;
  for (auto column : kTokenStatistics) {
    std::vector<at::Tensor> values;
    for (const TokenStatistics& part : parts) values.push_back(part.*column);
    if (values.front().defined()) all.*column = at::cat(values);
  }
  return all;
}

}  // namespace

CrossEntropyForward chunked_forward(const CrossEntropyArguments& arguments, const WantedGradients& wanted,
                                    WantedStatistics statistics) {
  const LinearCrossEntropyOptions& options = arguments.options;
  const Rows rows = prepare(arguments);
  const auto of_type = arguments.hidden.options().dtype(rows.type);
  at::Tensor losses = at::zeros({arguments.hidden.size(0)}, of_type);
  CrossEntropyForward result;
  result.row_sums = at::zeros({arguments.hidden.size(0), 2}, of_type.dtype(at::kDouble));
  result.gradients = empty_sums(arguments, rows.type, wanted);
  std::vector<TokenStatistics> of_chunks;
  for_each_chunk(arguments, [&](std::int64_t begin, std::int64_t size) {
    const at::Tensor logits = chunk_logits(arguments, begin, size, rows.type);
    const auto part = [&](const at::Tensor& whole) { return whole.narrow(0, begin, size); };
    // Around the maximum, because logits near 1e4 leave a float32 logsumexp no digits behind the point.
    const at::Tensor max = logits.amax({1}, true), lse = (logits - max).logsumexp({1}, true);
    at::Tensor loss = (1 - options.label_smoothing) * part(rows.class_weight) *
                      ((max - logits.gather(1, part(rows.target).unsqueeze(1))) + lse).squeeze(1);
    if (options.label_smoothing != 0) {
      const at::Tensor surprise = lse - (logits - max);
      loss = loss + options.label_smoothing / static_cast<double>(logits.size(1)) *
                        (rows.all_class_weight.defined() ? surprise * rows.all_class_weight : surprise).sum(1);
    }
    const at::Tensor shift = max.to(at::kDouble);
    const at::Tensor sums = at::cat(std::vector<at::Tensor>{shift, shift + lse.to(at::kDouble)}, 1);
    if (options.z_loss != 0) loss = loss + options.z_loss * sums.select(1, 1).to(rows.type).square();
    loss = at::where(part(rows.kept), loss * part(rows.token_weight), at::zeros_like(loss));
    losses.narrow(0, begin, size).copy_(loss);
    result.row_sums.narrow(0, begin, size).copy_(at::where(part(rows.kept).unsqueeze(1), sums, at::zeros_like(sums)));
    if (statistics != WantedStatistics::kNone)
      of_chunks.push_back(chunk_statistics(arguments, rows, begin, size, statistics == WantedStatistics::kAll));
    if (wanted.any())
      add_gradients(arguments, rows, begin, logits, sums, at::ones_like(loss) / rows.denominator, wanted,
                    result.gradients);
  });
  result.gradients = in_own_types(arguments, result.gradients);
  if (!of_chunks.empty()) result.statistics = joined(of_chunks);
  result.loss = options.reduction == Reduction::kNone ? losses : losses.sum() / rows.denominator;
  return result;
}

CrossEntropyGradients chunked_backward(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                       const at::Tensor& row_sums, const WantedGradients& wanted) {
  const Rows rows = prepare(arguments);
  CrossEntropyGradients sums = empty_sums(arguments, rows.type, wanted);
  const at::Tensor above = (upstream.detach().to(rows.type) / rows.denominator).expand({arguments.hidden.size(0)});
  for_each_chunk(arguments, [&](std::int64_t begin, std::int64_t size) {
    add_gradients(arguments, rows, begin, chunk_logits(arguments, begin, size, rows.type),
                  row_sums.narrow(0, begin, size), above.narrow(0, begin, size), wanted, sums);
  });
  return in_own_types(arguments, sums);
}

}  // namespace lmhead
