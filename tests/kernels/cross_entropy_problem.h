// Problems for linear_cross_entropy with random options, and the rule by which its answers are judged.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>

#include "lmhead/base/random.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "tests/kernels/agreement.h"

namespace lmhead::test {

inline at::Tensor normal(at::IntArrayRef shape, RandomStream& random, double scale = 1) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  double* values = tensor.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) values[i] = scale * random.normal();
  return tensor;
}
inline at::Tensor ids(std::int64_t size, std::int64_t bound, RandomStream& random) {
  at::Tensor tensor = at::empty({size}, at::kLong);
  for (std::int64_t i = 0; i < size; ++i)
    tensor.mutable_data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(bound)));
  return tensor;
}

enum class Layout { kContiguous, kTransposed, kStrided };

/// The same values in another order in memory.
inline at::Tensor laid_out(const at::Tensor& tensor, at::ScalarType type, Layout layout) {
  at::Tensor copy = tensor.to(type, /*non_blocking=*/false, /*copy=*/true);
  if (tensor.dim() != 2 || layout == Layout::kContiguous) return copy;
  if (layout == Layout::kTransposed) return copy.t().contiguous().t();
  at::Tensor every_second = at::full({2 * tensor.size(0), 2 * tensor.size(1)}, 1e30, copy.options())
                                .slice(0, 1, std::nullopt, 2)
                                .slice(1, 0, std::nullopt, 2);
  return every_second.copy_(copy);
}

/// A problem in float64 whose values are exact in the type that it is going to be run in.
struct Problem {
  at::Tensor hidden, weight, bias, targets, upstream;
  at::Tensor inputs;  // [N] where hidden is weight[inputs], so that the weight's gradient has two parts
  LogitTransform transform;
  LinearCrossEntropyOptions options;
  Layout layout = Layout::kContiguous;

  /// Whether no target counts: then the mean is 0 / 0.
  bool counts_nothing() const {
    if (has_probabilities()) return targets.size(0) == 0;
    return targets.ne(options.ignore_index).sum().item<std::int64_t>() == 0;
  }
  bool has_probabilities() const { return targets.dim() == 2; }
  /// Whether linear_cross_entropy_with_statistics takes it.
  bool has_statistics() const { return !has_probabilities() && !options.temperature.defined(); }
  LinearMap map() const { return {weight, bias, transform}; }
};

struct Outcome {
  at::Tensor loss, hidden, weight, bias;

  bool same_bits(const Outcome& other) const {
    const auto equal = [](const at::Tensor& a, const at::Tensor& b) { return a.defined() ? a.equal(b) : !b.defined(); };
    return equal(loss, other.loss) && equal(hidden, other.hidden) && equal(weight, other.weight) &&
           equal(bias, other.bias);
  }
};

/// Loss and gradients of `function(hidden, map, targets, options)` on the problem rounded to `type`.
template <class Function>
Outcome run(const Problem& problem, at::ScalarType type, const Function& function) {
  const auto leaf = [&](const at::Tensor& tensor) {
    return tensor.defined() ? laid_out(tensor, type, problem.layout).detach().requires_grad_() : tensor;
  };
  const LinearMap map{leaf(problem.weight), leaf(problem.bias), problem.transform};
  const bool tied = problem.inputs.defined();
  const at::Tensor hidden = tied ? map.weight.index_select(0, problem.inputs) : leaf(problem.hidden);
  const at::Tensor loss = function(hidden, map, problem.targets, problem.options);
  (loss * problem.upstream.to(loss.scalar_type())).sum().backward();
  return {loss, tied ? at::Tensor() : hidden.grad(), map.weight.grad(),
          problem.bias.defined() ? map.bias.grad() : at::Tensor()};
}

/// The size of what a result is summed from, where it may be much larger than the result.
struct Scales {
  double loss, hidden, weight, bias;
  double long_sums;  // for float64: how much further than usual sums over V may be off, in the float64 reference too
};
inline Scales scales_of(const Problem& problem) {
  const double size = std::max<double>(1, static_cast<double>(problem.hidden.size(0)));
  const LinearCrossEntropyOptions& options = problem.options;
  const auto largest = [](const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.numel() == 0) return 1.0;
    const at::Tensor finite = tensor.abs();
    return finite.masked_fill(finite.eq(std::numeric_limits<double>::infinity()), 0).max().item<double>();
  };
  at::Tensor products = problem.hidden.matmul(problem.weight.t());
  if (problem.bias.defined()) products = products + problem.bias;
  // A logit is rounded in proportion to its size, and that error of the exponent is a relative error of p.
  const at::Tensor& temperature = options.temperature;
  const double heat = temperature.defined() && temperature.numel() > 0 ? 1 / temperature.min().item<double>() : 1;
  const double logits = problem.transform.scale * heat * (products.numel() ? largest(products) : 0);
  const double conditioning = std::max(1.0, logits / 8);
  const SigmoidCap& cap = problem.transform.sigmoid_cap;
  const double steepest = cap.height > 0 ? cap.height / (4 * cap.width) : problem.transform.sigsoftmax ? 2 : 1;
  // A row of p - y is a difference of two vectors of about norm one each.
  const double rows = options.reduction == Reduction::kSum    ? std::sqrt(size)
                      : options.reduction == Reduction::kMean ? 1 / std::sqrt(size)
                                                              : std::sqrt(size) * largest(problem.upstream);
  const double factor = options.reduction == Reduction::kNone ? 1 : largest(problem.upstream);
  const double gradient = rows * factor * problem.transform.scale * steepest * heat * conditioning;
  const double weight_scale = problem.weight.norm().item<double>() / std::sqrt(problem.weight.size(0));
  const double hidden_scale = problem.hidden.norm().item<double>() / std::sqrt(size);
  const double losses = options.reduction == Reduction::kMean  ? 1
                        : options.reduction == Reduction::kSum ? size
                                                               : std::sqrt(size);
  return {losses * logits * largest(options.token_weight), gradient * weight_scale,
          gradient * (hidden_scale + (problem.inputs.defined() ? weight_scale : 0)), gradient,
          std::max(1.0, std::sqrt(static_cast<double>(problem.weight.size(0))) / 32)};
}

/// Loss and gradients may not err more than agreement.h allows.
inline void judge(const Outcome& fast, const Outcome& plain, const Outcome& exact, const Scales& scales,
                  at::ScalarType type, const std::string& what) {
  expect_as_good_as_plain(fast.loss, plain.loss, exact.loss, type, scales.loss, what + ": loss");
  const double long_sums = type == at::kDouble ? scales.long_sums : 1;
  expect_as_good_as_plain(fast.hidden, plain.hidden, exact.hidden, type, scales.hidden * long_sums,
                          what + ": d_hidden");
  expect_as_good_as_plain(fast.weight, plain.weight, exact.weight, type, scales.weight, what + ": d_weight");
  expect_as_good_as_plain(fast.bias, plain.bias, exact.bias, type, scales.bias, what + ": d_bias");
}
inline void expect_agreement(const Problem& problem, at::ScalarType type, const std::string& what) {
  judge(run(problem, type, linear_cross_entropy), run(problem, type, plain_linear_cross_entropy),
        run(problem, at::kDouble, plain_linear_cross_entropy), scales_of(problem), type, what);
}

inline LogitTransform draw_transform(RandomStream& random) {
  LogitTransform transform;
  if (random.uniform() < 0.3) transform.scale = 0.5 + random.uniform();
  const double map = random.uniform();
  if (map < 0.25) transform.softcap = 2 + 10 * random.uniform();
  else if (map < 0.35)
    transform.sigmoid_cap = {5 + 20 * random.uniform(), 4 * random.normal(), 1 + 5 * random.uniform()};
  else if (map < 0.45) transform.sigsoftmax = true;
  return transform;
}

/// Draws every option and the data for a shape.
inline Problem draw(std::int64_t size, std::int64_t vocab_size, std::int64_t width, at::ScalarType type,
                    RandomStream& random) {
  const auto rounded = [&](const at::Tensor& tensor) { return tensor.to(type).to(at::kDouble); };
  const auto chance = [&](double share) { return random.uniform() < share; };
  Problem problem;
  problem.hidden = rounded(normal({size, width}, random));
  problem.weight = rounded(normal({vocab_size, width}, random, 2 / std::sqrt(static_cast<double>(width))));
  problem.targets = ids(size, vocab_size, random);
  problem.layout = static_cast<Layout>(random.below(3));
  if (chance(0.4)) problem.bias = rounded(normal({vocab_size}, random));
  problem.transform = draw_transform(random);
  LinearCrossEntropyOptions& options = problem.options;
  if (chance(0.4)) options.label_smoothing = 0.3 * random.uniform();
  if (chance(0.3)) options.z_loss = 1e-2 * random.uniform();
  if (chance(0.3)) options.class_weight = rounded(normal({vocab_size}, random)).abs() + 0.125;
  if (chance(0.3)) options.token_weight = normal({size}, random).to(at::kFloat).to(at::kDouble);
  if (chance(0.15)) options.temperature = (normal({size}, random).abs() + 0.5).to(at::kFloat).to(at::kDouble);
  if (chance(0.5)) options.ignore_index = size > 1 ? problem.targets[0].item<std::int64_t>() : -1;
  if (size > 1 && problem.counts_nothing()) options.ignore_index = -1;
  options.mode = static_cast<LinearCrossEntropyMode>(random.below(3));
  if (chance(0.15)) {  // class probabilities, not all of which need to sum to one
    problem.targets = rounded(normal({size, vocab_size}, random).abs() / static_cast<double>(vocab_size));
    options.ignore_index = -100;
  }
  const double kind = random.uniform();
  options.reduction = kind < 0.4 ? Reduction::kMean : kind < 0.6 ? Reduction::kSum : Reduction::kNone;
  problem.upstream = options.reduction == Reduction::kNone ? normal({size}, random) : normal({}, random);
  return problem;
}

/// Makes a drawn problem nasty in one of the ways that programs meet, or leaves it.
inline void make_extreme(Problem& problem, at::ScalarType type, RandomStream& random) {
  const std::int64_t vocab_size = problem.weight.size(0), size = problem.hidden.size(0);
  const auto rounded = [&](const at::Tensor& tensor) { return tensor.to(type).to(at::kDouble); };
  switch (random.below(10)) {
    case 0:  // logits up to 1e4 either way
      if (size == 0) return;
      problem.weight =
          rounded(problem.weight * (1e4 / problem.hidden.matmul(problem.weight.t()).abs().max().clamp_min(1e-3)));
      return;
    case 1:  // classes that cannot be, none of them a target (nor may smoothing want them)
      if (problem.has_probabilities()) return;
      problem.bias = rounded(normal({vocab_size}, random));
      problem.bias.masked_fill_(normal({vocab_size}, random).gt(random.normal()),
                                -std::numeric_limits<double>::infinity());
      problem.bias.index_fill_(0, problem.targets, 0.5);
      if (size == 0) problem.bias[0] = 0;
      problem.options.label_smoothing = 0;
      return;
    case 2:  // tied: the features are rows of the weight
      problem.inputs = ids(size, vocab_size, random);
      problem.hidden = problem.weight.index_select(0, problem.inputs);
      return;
    case 3:
      if (problem.has_probabilities()) return;
      problem.options.ignore_index = -100;
      problem.targets.fill_(-100);
      return;
    default:
      return;
  }
}

inline std::string describe(const Problem& problem, at::ScalarType type) {
  std::ostringstream text;
  const LinearCrossEntropyOptions& options = problem.options;
  text << "N " << problem.hidden.size(0) << " V " << problem.weight.size(0) << " D " << problem.hidden.size(1) << " "
       << type << " reduction " << static_cast<int>(options.reduction) << " mode " << mode_name(options.mode)
       << " layout " << static_cast<int>(problem.layout) << " tied " << problem.inputs.defined() << " bias "
       << problem.bias.defined() << " scale " << problem.transform.scale << " cap " << problem.transform.softcap
       << " sigmoid cap " << problem.transform.sigmoid_cap.height << " sigsoftmax " << problem.transform.sigsoftmax
       << " temperature " << options.temperature.defined() << " probabilities " << problem.has_probabilities()
       << " smoothing " << options.label_smoothing << " z " << options.z_loss << " class weight "
       << options.class_weight.defined() << " token weight " << options.token_weight.defined() << " ignore "
       << options.ignore_index;
  return text.str();
}

}  // namespace lmhead::test
