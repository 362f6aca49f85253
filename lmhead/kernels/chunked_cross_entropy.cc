#include "lmhead/kernels/chunked_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "lmhead/kernels/fused_rows.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/product_sum.h"
#include "lmhead/kernels/tile_sizes.h"
#include "lmhead/kernels/token_statistics.h"

namespace lmhead {
namespace {

/// Some rows of the batch and what weighs them; [n, 1] each in the type of the loss, where nothing else is said.
struct Rows {
  at::Tensor hidden;         // [n, D], zeros where the target is ignored: what stands there must not reach anything
  at::Tensor kept;           // bool
  at::Tensor targets;        // [n] ids, 0 where ignored; undefined for class probabilities
  at::Tensor target_weight;  // class weight of the target, 0 where ignored
  at::Tensor token_weight;   // 0 where ignored
  at::Tensor temperature;    // or undefined
  at::Tensor class_weight;   // [V], or class weight times probability [n, V], or undefined
  at::Tensor weight_sum;     // of class_weight over the vocabulary; [] where the same for all rows

  Rows narrow(std::int64_t begin, std::int64_t size) const {
    Rows part = *this;
    for (at::Tensor Rows::* field : {&Rows::hidden, &Rows::kept, &Rows::targets, &Rows::target_weight,
                                     &Rows::token_weight, &Rows::temperature, &Rows::class_weight, &Rows::weight_sum}) {
      at::Tensor& values = part.*field;
      const bool of_rows = values.defined() && (field == &Rows::targets || values.dim() == 2);
      if (of_rows) values = values.narrow(0, begin, size);
    }
    return part;
  }
};

Rows rows_of(const CrossEntropyArguments& arguments) {
  const LinearCrossEntropyOptions& options = arguments.options;
  const at::Tensor& hidden = arguments.hidden;
  const at::ScalarType type = loss_type(hidden.scalar_type());
  const std::int64_t vocab_size = arguments.map.weight.size(0);
  const auto ones = [&](at::IntArrayRef sizes) { return at::ones(sizes, hidden.options().dtype(type)); };
  Rows rows;
  if (options.class_weight.defined()) rows.class_weight = options.class_weight.to(type);
  rows.token_weight =
      options.token_weight.defined() ? options.token_weight.to(type).unsqueeze(1) : ones({hidden.size(0), 1});
  if (options.temperature.defined()) rows.temperature = options.temperature.to(type).unsqueeze(1);
  if (arguments.has_probabilities()) {
    const double smoothing = options.label_smoothing;
    at::Tensor share = arguments.targets.to(type);
    if (smoothing != 0) share = share * (1 - smoothing) + smoothing / static_cast<double>(vocab_size);
    rows.hidden = hidden;
    rows.kept = ones({hidden.size(0), 1}).to(at::kBool);
    rows.target_weight = ones({hidden.size(0), 1});
    rows.class_weight = rows.class_weight.defined() ? share * rows.class_weight : share;
    rows.weight_sum = rows.class_weight.sum({1}, /*keepdim=*/true);
    return rows;
  }
  const at::Tensor kept = arguments.targets.ne(options.ignore_index);
  rows.kept = kept.unsqueeze(1);
  rows.hidden = at::where(rows.kept, hidden, at::zeros_like(hidden));
  rows.targets = at::where(kept, arguments.targets, at::zeros_like(arguments.targets));
  rows.target_weight = rows.kept.to(type);
  if (rows.class_weight.defined())
    rows.target_weight = rows.target_weight * rows.class_weight.index_select(0, rows.targets).unsqueeze(1);
  rows.token_weight = at::where(rows.kept, rows.token_weight, at::zeros_like(rows.token_weight));
  rows.weight_sum = rows.class_weight.defined() ? rows.class_weight.sum() : ones({}) * vocab_size;
  return rows;
}

/// What the sum of losses is divided by.
at::Tensor denominator_of(const Rows& rows, const LinearCrossEntropyOptions& options) {
  if (options.reduction == Reduction::kMean) return rows.target_weight.sum();
  return at::ones({}, rows.token_weight.options());
}

/// Rows whose logits are there at once: of at most 64 Mi elements, or what the row kernel takes.
std::int64_t rows_per_chunk(const CrossEntropyArguments& arguments, bool is_fused) {
  const std::int64_t vocab_size = arguments.map.weight.size(0);
  return is_fused ? FusedRows::rows_per_chunk(arguments.hidden, vocab_size) : tile_sizes::rows_per_chunk(vocab_size);
}
/// Calls `work(begin, rows)` for chunks of `rows`.
template <class Work>
void for_each_chunk(const CrossEntropyArguments& arguments, std::int64_t rows, const Work& work) {
  const std::int64_t size = arguments.hidden.size(0);
  for (std::int64_t begin = 0; begin < size; begin += rows) work(begin, std::min(rows, size - begin));
}

/// The arguments without history: what is formed in chunks has its derivatives from the formulae here.
CrossEntropyArguments detached(const CrossEntropyArguments& arguments) {
  CrossEntropyArguments result = arguments;
  for (at::Tensor* tensor : {&result.hidden, &result.targets, &result.map.weight, &result.map.bias,
                             &result.options.class_weight, &result.options.token_weight, &result.options.temperature})
    if (tensor->defined()) *tensor = tensor->detach();
  return result;
}

/// The gradient with respect to the products of rows of `logits` whose losses are multiplied by `upstream` [n, 1]; the
/// logsumexp of logits / temperature is `shift` + `lse`, both [n, 1].
at::Tensor gradient_of_rows(const CrossEntropyArguments& arguments, const Rows& rows, const at::Tensor& logits,
                            const at::Tensor& shift, const at::Tensor& lse, const at::Tensor& upstream) {
  const LinearCrossEntropyOptions& options = arguments.options;
  const double smoothing = options.label_smoothing, classes = static_cast<double>(logits.size(1));
  at::Tensor scale = upstream * rows.token_weight;
  scale = at::where(rows.kept, scale, at::zeros_like(scale));
  LogitGradientTerms terms{.shift = shift, .class_weight = rows.class_weight, .temperature = rows.temperature};
  at::Tensor probability;
  if (arguments.has_probabilities()) {
    probability = rows.weight_sum;
    terms.smoothing = scale;
  } else {
    terms.targets = rows.targets;
    terms.target = scale * (1 - smoothing) * rows.target_weight;
    probability = (1 - smoothing) * rows.target_weight + smoothing / classes * rows.weight_sum;
    if (smoothing != 0) terms.smoothing = scale * (smoothing / classes);
  }
  if (options.z_loss != 0) probability = probability + 2 * options.z_loss * (shift + lse);
  terms.factor = scale * probability * (-lse).exp();
  return plain_logit_gradient(logits, arguments.map.transform, terms);
}

struct GradientSums {
  CrossEntropyGradients sums;  // the weight's and the bias's in the type of the loss

  /// Of one chunk the product is the weight's gradient itself; several need a wider sum.
  GradientSums(const CrossEntropyArguments& arguments, const WantedGradients& wanted, bool is_one_chunk)
      : wants_weight_(wanted.weight) {
    const at::ScalarType own = arguments.hidden.scalar_type(), wide = loss_type(own);
    weight_type_ = is_one_chunk ? own : wide;
    if (wanted.hidden) sums.hidden = at::zeros_like(arguments.hidden, at::MemoryFormat::Contiguous);
    if (wanted.bias) sums.bias = at::zeros(arguments.map.bias.sizes(), arguments.map.bias.options().dtype(wide));
  }
  /// Adds a chunk's, whose `gradient` is with respect to its products.
  void add(const CrossEntropyArguments& arguments, const Rows& rows, std::int64_t begin, at::Tensor gradient) {
    if (sums.bias.defined()) sums.bias += gradient.sum({0}, /*keepdim=*/false, sums.bias.scalar_type());
    gradient = gradient.to(arguments.hidden.scalar_type());
    if (sums.hidden.defined()) {
      at::Tensor of_rows = sums.hidden.narrow(0, begin, gradient.size(0));
      at::mm_out(of_rows, gradient, arguments.map.weight);
    }
    if (wants_weight_) add_product(sums.weight, gradient.t(), rows.hidden, weight_type_);
  }
  CrossEntropyGradients in_own_types(const CrossEntropyArguments& arguments) const {
    CrossEntropyGradients result = sums;
    if (wants_weight_ && !sums.weight.defined()) result.weight = at::zeros_like(arguments.map.weight);  // no rows
    if (result.weight.defined()) result.weight = result.weight.to(arguments.map.weight.scalar_type());
    if (result.bias.defined()) result.bias = result.bias.to(arguments.map.bias.scalar_type());
    return result;
  }

 private:
  bool wants_weight_;
  at::ScalarType weight_type_;
};

/// Losses [n, 1] before the token weights; `logits` less their maximum, `lse` around it, `logsumexp` whole.
at::Tensor losses_of(const CrossEntropyArguments& arguments, const Rows& rows, const at::Tensor& logits,
                     const at::Tensor& lse, const at::Tensor& logsumexp) {
  const LinearCrossEntropyOptions& options = arguments.options;
  const auto weighted = [&] {
    const at::Tensor surprise = lse - logits;
    return (rows.class_weight.defined() ? surprise * rows.class_weight : surprise).sum({1}, /*keepdim=*/true);
  };
  at::Tensor loss;
  if (arguments.has_probabilities()) {
    loss = weighted();
  } else {
    loss = (1 - options.label_smoothing) * rows.target_weight * (lse - logits.gather(1, rows.targets.unsqueeze(1)));
    if (options.label_smoothing != 0)
      loss = loss + options.label_smoothing / static_cast<double>(logits.size(1)) * weighted();
  }
  return options.z_loss == 0 ? loss : loss + options.z_loss * logsumexp.square();
}

/// The rows of a chunk through the row kernel: writes losses [n], row sums [n, 2] and, where that is defined, figures
/// [n, kFiguresOfRow] there, and gives the gradient with respect to the products for an upstream of [1] or [n], or
/// nothing where that is undefined.
at::Tensor run_fused(const FusedRows& kernel, const CrossEntropyArguments& arguments, const Rows& rows,
                     const at::Tensor& given_upstream, const at::Tensor& losses, const at::Tensor& row_sums,
                     const at::Tensor& figures = {}) {
  at::Tensor products = at::mm(rows.hidden, arguments.map.weight.t());
  const TaskNumbers bias(arguments.map.bias), temperature(rows.temperature), target_weight(rows.target_weight),
      token_weight(rows.token_weight), class_weight(rows.class_weight), weight_sum(rows.weight_sum),
      upstream(given_upstream);
  const at::Tensor kept = rows.kept.contiguous();
  const at::Tensor targets = rows.targets.defined() ? rows.targets.contiguous() : at::Tensor();
  const bool is_of_rows = rows.class_weight.defined() && rows.class_weight.dim() == 2;
  kernel.run(products, {.transform = arguments.map.transform,
                        .bias = bias,
                        .temperature = temperature,
                        .kept = kept.const_data_ptr<bool>(),
                        .targets = targets.defined() ? targets.const_data_ptr<std::int64_t>() : nullptr,
                        .target_weight = target_weight,
                        .token_weight = token_weight,
                        .class_weight = class_weight,
                        .weight_sum = weight_sum,
                        .class_weight_stride = is_of_rows ? products.size(1) : 0,
                        .weight_sum_stride = rows.weight_sum.dim() == 2,
                        .label_smoothing = static_cast<float>(arguments.options.label_smoothing),
                        .z_loss = static_cast<float>(arguments.options.z_loss),
                        .has_probabilities = arguments.has_probabilities(),
                        .upstream = upstream,
                        .upstream_stride = given_upstream.defined() && given_upstream.numel() > 1,
                        .losses = losses.mutable_data_ptr<float>(),
                        .row_sums = row_sums.mutable_data_ptr<double>(),
                        .figures = figures.defined() ? figures.mutable_data_ptr<float>() : nullptr});
  return given_upstream.defined() ? products : at::Tensor();
}

/// The same losses with nothing added to plain cross-entropy, in which the gradient of a row is p - y.
CrossEntropyArguments plain(const CrossEntropyArguments& arguments) {
  CrossEntropyArguments result = arguments;
  result.options = {};
  return result;
}
Rows plain(const Rows& given, std::int64_t vocab_size) {
  Rows rows = given;
  rows.target_weight = rows.token_weight = given.kept.to(given.token_weight.scalar_type());
  rows.class_weight = rows.temperature = at::Tensor();
  rows.weight_sum = at::full({}, vocab_size, given.token_weight.options());
  return rows;
}

TokenStatistics statistics_of(const at::Tensor& figures, const at::Tensor& hidden_gradient) {
  const auto column = [&](RowFigure which) { return figures.select(1, std::int64_t(which)); };
  return {.log_probability = column(RowFigure::kLogProbability),
          .logsumexp = column(RowFigure::kLogsumexp),
          .entropy = column(RowFigure::kEntropy),
          .correct = column(RowFigure::kCorrect).to(at::kBool),
          .logit_gradient_square = hidden_gradient.defined() ? column(RowFigure::kGradientSquare) : at::Tensor(),
          .hidden_gradient = hidden_gradient};
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

CrossEntropyForward chunked_forward(const CrossEntropyArguments& given, const WantedGradients& wanted,
                                    WantedStatistics statistics) {
  const CrossEntropyArguments arguments = detached(given);
  const LinearCrossEntropyOptions& options = arguments.options;
  const at::ScalarType type = loss_type(arguments.hidden.scalar_type());
  const Rows all = rows_of(arguments);
  const at::Tensor denominator = denominator_of(all, options);
  at::Tensor losses = at::zeros_like(all.token_weight);
  CrossEntropyForward result;
  result.row_sums = at::zeros({losses.size(0), 2}, losses.options().dtype(at::kDouble));
  std::vector<TokenStatistics> of_chunks;
  // Statistics are of logits that no temperature divides.
  const bool takes_kernel = statistics == WantedStatistics::kNone || !options.temperature.defined();
  const auto kernel = takes_kernel ? FusedRows::of(arguments.hidden) : std::nullopt;
  // g = W^T (p - y) is then that of the loss; float16 has no digits left for a gradient that was divided.
  const bool shares_gradient = statistics == WantedStatistics::kAll && wanted.hidden &&
                               arguments.hidden.scalar_type() != at::kHalf && is_plain_cross_entropy(arguments);
  const std::int64_t chunk = rows_per_chunk(arguments, kernel.has_value());
  GradientSums gradients(arguments, wanted, losses.size(0) <= chunk);
  for_each_chunk(arguments, chunk, [&](std::int64_t begin, std::int64_t size) {
    const Rows rows = all.narrow(begin, size);
    if (kernel) {
      const at::Tensor upstream = wanted.any() ? (1 / denominator).reshape({1}) : at::Tensor();
      at::Tensor figures, of_hidden;
      if (statistics != WantedStatistics::kNone) figures = at::empty({size, kFiguresOfRow}, losses.options());
      const bool is_other = statistics == WantedStatistics::kAll && !shares_gradient;
      const at::Tensor gradient = run_fused(*kernel, arguments, rows, upstream, losses.narrow(0, begin, size),
                                            result.row_sums.narrow(0, begin, size), is_other ? at::Tensor() : figures);
      if (wanted.any()) gradients.add(arguments, rows, begin, gradient);
      if (statistics == WantedStatistics::kNone) return;
      if (shares_gradient) of_hidden = gradients.sums.hidden.narrow(0, begin, size).to(type) * denominator;
      if (is_other) {
        const at::Tensor of_products = run_fused(*kernel, plain(arguments), plain(rows, arguments.map.weight.size(0)),
                                                 at::ones({1}, losses.options()), at::empty({size}, losses.options()),
                                                 at::empty({size, 2}, result.row_sums.options()), figures);
        of_hidden = at::mm(of_products, arguments.map.weight).to(type);
      }
      of_chunks.push_back(statistics_of(figures, of_hidden));
      return;
    }
    const at::Tensor logits = wide_linear_logits(rows.hidden, arguments.map);
    const at::Tensor cooled = rows.temperature.defined() ? logits / rows.temperature : logits;
    // Around the maximum, because logits near 1e4 leave a float32 logsumexp no digits behind the point.
    const at::Tensor max = cooled.amax({1}, true), around = cooled - max, lse = around.logsumexp({1}, true);
    const at::Tensor wide_max = max.to(at::kDouble), logsumexp = wide_max + lse.to(at::kDouble);
    const at::Tensor loss = losses_of(arguments, rows, around, lse, logsumexp.to(type)) * rows.token_weight;
    losses.narrow(0, begin, size).copy_(at::where(rows.kept, loss, at::zeros_like(loss)));
    const at::Tensor sums = at::cat(std::vector<at::Tensor>{wide_max, logsumexp}, 1);
    result.row_sums.narrow(0, begin, size).copy_(at::where(rows.kept, sums, at::zeros_like(sums)));
    if (statistics != WantedStatistics::kNone)
      of_chunks.push_back(kept_statistics(
          statistics_of_logits(logits, arguments.map, rows.targets, statistics == WantedStatistics::kAll),
          rows.kept.squeeze(1)));
    if (wanted.any())
      gradients.add(arguments, rows, begin, gradient_of_rows(arguments, rows, logits, max, lse, 1 / denominator));
  });
  result.gradients = gradients.in_own_types(arguments);
  if (!of_chunks.empty()) result.statistics = joined(of_chunks);
  losses = losses.squeeze(1);
  result.loss = options.reduction == Reduction::kNone ? losses : losses.sum() / denominator;
  return result;
}

CrossEntropyGradients chunked_backward(const CrossEntropyArguments& given, const at::Tensor& upstream,
                                       const at::Tensor& row_sums, const WantedGradients& wanted) {
  const CrossEntropyArguments arguments = detached(given);
  const at::ScalarType type = loss_type(arguments.hidden.scalar_type());
  const Rows all = rows_of(arguments);
  const at::Tensor above = (upstream.detach().to(type) / denominator_of(all, arguments.options)).reshape({-1, 1});
  const auto kernel = FusedRows::of(arguments.hidden);
  const std::int64_t chunk = rows_per_chunk(arguments, kernel.has_value());
  GradientSums gradients(arguments, wanted, arguments.hidden.size(0) <= chunk);
  for_each_chunk(arguments, chunk, [&](std::int64_t begin, std::int64_t size) {
    const Rows rows = all.narrow(begin, size);
    if (kernel) {  // sums of a row cost less than a second kernel that is given them
      const at::Tensor of_rows = above.size(0) == 1 ? above : above.narrow(0, begin, size);
      gradients.add(arguments, rows, begin,
                    run_fused(*kernel, arguments, rows, of_rows, at::empty({size}, above.options()),
                              at::empty({size, 2}, above.options().dtype(at::kDouble))));
      return;
    }
    const at::Tensor sums = row_sums.narrow(0, begin, size);
    const at::Tensor max = sums.narrow(1, 0, 1).to(type), lse = sums.narrow(1, 1, 1) - sums.narrow(1, 0, 1);
    gradients.add(arguments, rows, begin,
                  gradient_of_rows(arguments, rows, wide_linear_logits(rows.hidden, arguments.map), max, lse.to(type),
                                   above.size(0) == 1 ? above : above.narrow(0, begin, size)));
  });
  return gradients.in_own_types(arguments);
}

}  // namespace lmhead
