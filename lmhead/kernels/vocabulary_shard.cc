#include "lmhead/kernels/vocabulary_shard.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_logits.h"
#include "lmhead/kernels/product_sum.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "vocabulary_parallel_cross_entropy";
constexpr std::int64_t kSums = 6, kFactors = 5;

void check(const VocabularyShard& shard) {
  const at::Tensor &hidden = shard.hidden, &weight = shard.map.weight;
  require(hidden.dim() == 2 && at::isFloatingType(hidden.scalar_type()), kWho, "hidden must be a floating [N, D], got ",
          hidden.scalar_type(), " ", hidden.sizes());
  require(weight.dim() == 2 && weight.size(1) == hidden.size(1) && weight.size(0) > 0 &&
              weight.scalar_type() == hidden.scalar_type() && weight.device() == hidden.device(),
          kWho, "weight must be a shard of rows, ", hidden.scalar_type(), " [U, ", hidden.size(1), "] on ",
          hidden.device(), ", got ", weight.scalar_type(), " ", weight.sizes(), " on ", weight.device());
  const auto check_row = [&](const at::Tensor& row, std::int64_t length, const char* name) {
    if (!row.defined()) return;
    require(row.dim() == 1 && row.size(0) == length && row.device() == hidden.device(), kWho, name, " must be [",
            length, "] on ", hidden.device(), ", got ", row.sizes(), " on ", row.device());
  };
  check_row(shard.targets, hidden.size(0), "targets");
  check_row(shard.temperature, hidden.size(0), "temperature");
  check_row(shard.map.bias, weight.size(0), "bias");
  check_row(shard.class_weight, weight.size(0), "class weights");
  require(shard.targets.scalar_type() == at::kLong, kWho, "targets must be int64, got ", shard.targets.scalar_type());
  if (shard.targets.numel() > 0) {
    const auto largest = shard.targets.max().item<std::int64_t>(), smallest = shard.targets.min().item<std::int64_t>();
    require(smallest >= -1 && largest < weight.size(0), kWho, "targets must be rows of the shard's ", weight.size(0),
            " or -1, got ", smallest < -1 ? smallest : largest);
  }
  check_logit_transform(shard.map.transform, kWho);
}

VocabularyShard detached(const VocabularyShard& shard) {
  VocabularyShard result = shard;
  for (at::Tensor* tensor : {&result.hidden, &result.map.weight, &result.map.bias, &result.targets, &result.temperature,
                             &result.class_weight})
    if (tensor->defined()) *tensor = tensor->detach();
  return result;
}

bool is_tiled(const VocabularyShard& shard) { return shard.hidden.is_cpu() && has_kernel_type(shard.hidden); }

/// A pass over the shard's rows; `ids` keeps the targets that it reads.
LogitPass pass_of(const VocabularyShard& shard, at::Tensor& ids) {
  ids = shard.targets.contiguous();
  LogitPass pass;
  pass.hidden = shard.hidden.contiguous();
  pass.map = shard.map;
  pass.map.weight = shard.map.weight.contiguous();
  pass.targets = ids.const_data_ptr<std::int64_t>();
  pass.class_weight = shard.class_weight;
  if (shard.temperature.defined()) {
    const at::Tensor numbers = shard.temperature.to(at::kDouble).reciprocal().contiguous();
    pass.inverse_temperature.assign(numbers.const_data_ptr<double>(),
                                    numbers.const_data_ptr<double>() + numbers.numel());
  }
  return pass;
}

double weight_sum(const VocabularyShard& shard) {
  if (!shard.class_weight.defined()) return static_cast<double>(shard.map.weight.size(0));
  return shard.class_weight.sum(at::kDouble).item<double>();
}

at::Tensor tiled_sums(const VocabularyShard& shard, bool with_weighted, bool with_scores) {
  at::Tensor result = at::zeros({shard.hidden.size(0), kSums}, at::kDouble), ids;
  double* sums = result.mutable_data_ptr<double>();
  const double total = with_weighted ? weight_sum(shard) : 0;
  LogitPass pass = pass_of(shard, ids);
  pass.wants_weighted = with_weighted, pass.wants_more = with_scores;
  pass.on_row = [&](std::int64_t row, const RowOutcome& outcome) {
    double* of_row = sums + kSums * row;
    of_row[0] = outcome.max, of_row[1] = outcome.logsumexp;
    if (pass.targets[row] >= 0) of_row[2] = outcome.target_logit;
    if (with_weighted) of_row[3] = outcome.logsumexp * total - outcome.weighted;
    if (with_scores) of_row[4] = outcome.entropy, of_row[5] = outcome.correct;
    return RowFactors{};
  };
  pass.run();
  return result;
}

VocabularyShardGradients tiled_gradients(const VocabularyShard& shard, const at::Tensor& factors,
                                         const WantedGradients& wanted, bool with_squares) {
  at::Tensor ids;
  const at::Tensor numbers = factors.contiguous();
  LogitPass pass = pass_of(shard, ids);
  pass.wants_hidden = wanted.hidden, pass.wants_weight = wanted.weight, pass.wants_bias = wanted.bias;
  pass.wants_squares = with_squares;
  for (std::int64_t row = 0; row < shard.hidden.size(0); ++row) {
    const double* of_row = numbers.const_data_ptr<double>() + kFactors * row;
    double scale = shard.map.transform.scale;
    if (!pass.inverse_temperature.empty()) scale *= pass.inverse_temperature[row];
    pass.factors.push_back({of_row[0], of_row[1], scale * of_row[2], scale * of_row[3], scale * of_row[4]});
  }
  pass.run();
  VocabularyShardGradients result{.hidden = pass.d_hidden, .squares = pass.squares};
  if (wanted.weight) result.weight = pass.d_weight.to(shard.map.weight.scalar_type());
  if (wanted.bias) result.bias = pass.d_bias.to(shard.map.bias.scalar_type());
  return result;
}

/// Calls `work(begin, part)` for chunks of tokens whose logits have at most 64 Mi elements.
template <class Work>
void for_each_chunk(const VocabularyShard& shard, const Work& work) {
  const std::int64_t size = shard.hidden.size(0);
  const std::int64_t step = tile_sizes::rows_per_chunk(shard.map.weight.size(0));
  for (std::int64_t begin = 0; begin < size; begin += step) {
    VocabularyShard part = shard;
    const std::int64_t rows = std::min(step, size - begin);
    part.hidden = shard.hidden.narrow(0, begin, rows);
    part.targets = shard.targets.narrow(0, begin, rows);
    if (part.temperature.defined())
      part.temperature =
          shard.temperature.narrow(0, begin, rows).to(loss_type(shard.hidden.scalar_type())).unsqueeze(1);
    work(begin, part);
  }
}

at::Tensor cooled(const VocabularyShard& part, const at::Tensor& logits) {
  return part.temperature.defined() ? logits / part.temperature : logits;
}

at::Tensor chunked_sums(const VocabularyShard& shard, bool with_weighted, bool with_scores) {
  at::Tensor result = at::zeros({shard.hidden.size(0), kSums}, shard.hidden.options().dtype(at::kDouble));
  for_each_chunk(shard, [&](std::int64_t begin, const VocabularyShard& part) {
    const at::Tensor logits = cooled(part, wide_linear_logits(part.hidden, part.map));
    const at::Tensor max = logits.amax({1}, true), around = logits - max, lse = around.logsumexp({1}, true);
    const at::Tensor here = part.targets.ge(0).unsqueeze(1), column = part.targets.clamp_min(0).unsqueeze(1);
    const at::Tensor target = logits.gather(1, column), zeros = at::zeros_like(max);
    std::vector<at::Tensor> sums{max.to(at::kDouble), max.to(at::kDouble) + lse.to(at::kDouble),
                                 at::where(here, target, zeros).to(at::kDouble)};
    at::Tensor weighted = logits;
    if (with_weighted && part.class_weight.defined()) weighted = logits * part.class_weight.to(logits.scalar_type());
    sums.push_back(with_weighted ? weighted.sum({1}, true, at::kDouble) : zeros.to(at::kDouble));
    at::Tensor entropy = zeros, correct = zeros;
    if (with_scores) {
      const at::Tensor p = (around - lse).exp();
      entropy = lse - (p * around.masked_fill(p.eq(0), 0)).sum({1}, true);
      correct = logits.argmax(1, true).eq(column).logical_and(here);
    }
    sums.push_back(entropy.to(at::kDouble)), sums.push_back(correct.to(at::kDouble));
    result.narrow(0, begin, part.hidden.size(0)).copy_(at::cat(sums, 1));
  });
  return result;
}

VocabularyShardGradients chunked_gradients(const VocabularyShard& shard, const at::Tensor& factors,
                                           const WantedGradients& wanted, bool with_squares) {
  const at::ScalarType type = shard.hidden.scalar_type(), wide = loss_type(type);
  const auto zeros = [&](at::IntArrayRef sizes, at::ScalarType as) {
    return at::zeros(sizes, shard.hidden.options().dtype(as));
  };
  VocabularyShardGradients sums;
  if (wanted.hidden) sums.hidden = zeros(shard.hidden.sizes(), wide);
  if (wanted.bias) sums.bias = zeros(shard.map.bias.sizes(), wide);
  if (with_squares) sums.squares = zeros({shard.hidden.size(0)}, at::kDouble);
  for_each_chunk(shard, [&](std::int64_t begin, const VocabularyShard& part) {
    const std::int64_t rows = part.hidden.size(0);
    const auto column = [&](std::int64_t which) { return factors.narrow(0, begin, rows).narrow(1, which, 1); };
    const at::Tensor here = part.targets.ge(0).unsqueeze(1), of_target = column(3).to(wide);
    LogitGradientTerms terms{.shift = column(0).to(wide), .temperature = part.temperature};
    terms.factor = (column(2) * (column(0) - column(1)).exp()).to(wide);
    terms.targets = part.targets.clamp_min(0);
    terms.target = at::where(here, of_target, at::zeros_like(of_target));
    terms.smoothing = column(4).to(wide);
    if (part.class_weight.defined()) terms.class_weight = part.class_weight.to(wide);
    at::Tensor gradient = plain_logit_gradient(wide_linear_logits(part.hidden, part.map), part.map.transform, terms);
    if (with_squares) sums.squares.narrow(0, begin, rows).copy_(gradient.square().sum({1}, false, at::kDouble));
    if (wanted.bias) sums.bias += gradient.sum(0);
    gradient = gradient.to(type);
    if (wanted.hidden) sums.hidden.narrow(0, begin, rows).copy_(at::mm(gradient, part.map.weight));
    if (wanted.weight) add_product(sums.weight, gradient.t(), part.hidden, wide);
  });
  if (wanted.weight && !sums.weight.defined()) sums.weight = at::zeros_like(shard.map.weight);  // no rows
  if (wanted.weight) sums.weight = sums.weight.to(shard.map.weight.scalar_type());
  if (wanted.bias) sums.bias = sums.bias.to(shard.map.bias.scalar_type());
  return sums;
}

// As dispatcher operations.

VocabularyShard shard_of(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                         const OptionalTensor& bias, const OptionalTensor& temperature,
                         const OptionalTensor& class_weight, double logit_scale, double logit_softcap,
                         at::ArrayRef<double> sigmoid_cap, bool sigsoftmax) {
  return {hidden,
          {weight, value_or_undefined(bias), transform_of(logit_scale, logit_softcap, sigmoid_cap, sigsoftmax, kWho)},
          targets,
          value_or_undefined(temperature),
          value_or_undefined(class_weight)};
}

at::Tensor sums_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                       const OptionalTensor& bias, const OptionalTensor& temperature,
                       const OptionalTensor& class_weight, bool with_weighted, bool with_scores, double logit_scale,
                       double logit_softcap, at::ArrayRef<double> sigmoid_cap, bool sigsoftmax) {
  return vocabulary_shard_sums(shard_of(hidden, weight, targets, bias, temperature, class_weight, logit_scale,
                                        logit_softcap, sigmoid_cap, sigsoftmax),
                               with_weighted, with_scores);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> gradients_kernel(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, const at::Tensor& factors,
    const OptionalTensor& bias, const OptionalTensor& temperature, const OptionalTensor& class_weight,
    std::array<bool, 3> wanted, bool with_squares, double logit_scale, double logit_softcap,
    at::ArrayRef<double> sigmoid_cap, bool sigsoftmax) {
  const auto found = vocabulary_shard_gradients(shard_of(hidden, weight, targets, bias, temperature, class_weight,
                                                         logit_scale, logit_softcap, sigmoid_cap, sigsoftmax),
                                                factors, {wanted[0], wanted[1], wanted[2]}, with_squares);
  return {or_nothing(found.hidden, hidden), or_nothing(found.weight, weight), or_nothing(found.bias, weight),
          or_nothing(found.squares, factors)};
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  const std::string inputs = "Tensor? bias=None, Tensor? temperature=None, Tensor? class_weight=None, ";
  const std::string transform = std::string(", ") + kTransformSchema + ") -> ";
  library.def(("_vocabulary_shard_sums(Tensor hidden, Tensor weight, Tensor targets, *, " + inputs +
               "bool with_weighted=False, bool with_scores=False" + transform + "Tensor")
                  .c_str());
  library.def(("_vocabulary_shard_gradients(Tensor hidden, Tensor weight, Tensor targets, Tensor factors, *, " +
               inputs + "bool[3] wanted, bool with_squares=False" + transform + "(Tensor, Tensor, Tensor, Tensor)")
                  .c_str());
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  library.impl("_vocabulary_shard_sums", sums_kernel);
  library.impl("_vocabulary_shard_gradients", gradients_kernel);
}

}  // namespace

at::Tensor vocabulary_shard_sums(const VocabularyShard& given, bool with_weighted, bool with_scores) {
  check(given);
  const VocabularyShard shard = detached(given);
  return is_tiled(shard) ? tiled_sums(shard, with_weighted, with_scores)
                         : chunked_sums(shard, with_weighted, with_scores);
}

VocabularyShardGradients vocabulary_shard_gradients(const VocabularyShard& given, const at::Tensor& factors,
                                                    const WantedGradients& wanted, bool with_squares) {
  check(given);
  require(factors.scalar_type() == at::kDouble && factors.dim() == 2 && factors.size(0) == given.hidden.size(0) &&
              factors.size(1) == kFactors,
          kWho, "factors must be float64 [", given.hidden.size(0), ", ", kFactors, "], got ", factors.scalar_type(),
          " ", factors.sizes());
  require(!wanted.bias || given.map.bias.defined(), kWho,
          "there must be a bias where its gradient is wanted, got none");
  const VocabularyShard shard = detached(given);
  return is_tiled(shard) ? tiled_gradients(shard, factors, wanted, with_squares)
                         : chunked_gradients(shard, factors, wanted, with_squares);
}

}  // namespace lmhead
