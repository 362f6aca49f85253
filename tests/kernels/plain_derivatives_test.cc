// Second derivatives and forward mode of every operation, against those of its plain composition.
#include "lmhead/kernels/plain_derivatives.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_make_dual.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/kernels/block_operations.h"
#include "lmhead/kernels/linear_logsumexp.h"
#include "lmhead/kernels/packed_attention.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;
using Tensors = std::vector<at::Tensor>;
using Operation = std::function<at::Tensor(const Tensors&)>;

Tensors leaves_of(const Tensors& inputs) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.clone().requires_grad_());
  return leaves;
}

/// The gradients, for every input and for a factor of the upstream, of a penalty on the gradients of `operation`.
Tensors second_derivatives(const Operation& operation, const Tensors& inputs) {
  Tensors leaves = leaves_of(inputs);
  const at::Tensor factor = at::full({}, 1.5, at::kDouble).requires_grad_();
  const at::Tensor output = operation(leaves);
  const Tensors gradients = torch::autograd::grad({(output.square() * factor * factor).sum()}, leaves, {}, true, true);
  at::Tensor penalty = factor;
  for (const at::Tensor& gradient : gradients) penalty = penalty + gradient.square().sum() + gradient.sum().square();
  leaves.push_back(factor);
  return torch::autograd::grad({penalty}, leaves);
}

/// The change of the output along `directions`, by forward mode.
at::Tensor tangent_of(const Operation& operation, const Tensors& inputs, const Tensors& directions) {
  const auto level = torch::autograd::forward_ad::enter_dual_level();
  Tensors duals;
  for (std::size_t index = 0; index < inputs.size(); ++index)
    duals.push_back(at::_make_dual(inputs[index], directions[index], static_cast<std::int64_t>(level)));
  const at::Tensor output = operation(duals);
  at::Tensor tangent = output._fw_grad(level);
  tangent = tangent.defined() ? tangent.clone() : at::zeros_like(output);
  torch::autograd::forward_ad::exit_dual_level(level);
  return tangent;
}

void expect_plain_derivatives(const Operation& fast, const Operation& plain, const Tensors& inputs,
                              RandomStream& random, const std::string& what) {
  const Tensors got = second_derivatives(fast, inputs), want = second_derivatives(plain, inputs);
  for (std::size_t index = 0; index < want.size(); ++index) {
    EXPECT_TRUE(got[index].allclose(want[index], 1e-8, 1e-10)) << what << ": second derivative " << index;
    EXPECT_GT(want[index].abs().sum().item<double>(), 0) << what;
  }
  Tensors directions;
  for (const at::Tensor& input : inputs) directions.push_back(normal(input.sizes(), random));
  EXPECT_TRUE(tangent_of(fast, inputs, directions).allclose(tangent_of(plain, inputs, directions), 1e-8, 1e-10))
      << what << ": forward mode";
  // What forward mode says is what the kernel's own gradient says.
  const Tensors leaves = leaves_of(inputs);
  const at::Tensor output = fast(leaves), upstream = normal(output.sizes(), random);
  const Tensors gradients = torch::autograd::grad({output}, leaves, {upstream});
  double along = 0;
  for (std::size_t index = 0; index < inputs.size(); ++index)
    along += (gradients[index] * directions[index]).sum().item<double>();
  const double forward = (tangent_of(fast, inputs, directions) * upstream).sum().item<double>();
  EXPECT_NEAR(forward, along, 1e-8 * (1 + std::abs(along))) << what << ": forward and reverse mode";
}

TEST(PlainDerivatives, OfLinearCrossEntropyWhateverItsOptions) {
  RandomStream random(1, "plain derivatives");
  for (int number = 0; number < 60; ++number) {
    const Problem problem = draw(9, 31, 5, at::kDouble, random);
    if (problem.counts_nothing()) continue;
    Tensors inputs{problem.hidden, problem.weight};
    if (problem.bias.defined()) inputs.push_back(problem.bias);
    const auto with = [&](const auto& function) -> Operation {
      return [&problem, function](const Tensors& leaves) {
        LinearMap map = problem.map();
        map.weight = leaves[1];
        if (leaves.size() > 2) map.bias = leaves[2];
        return function(leaves[0], map, problem.targets, problem.options);
      };
    };
    const Operation plain = with(plain_linear_cross_entropy);
    const std::string what = describe(problem, at::kDouble);
    expect_plain_derivatives(with(linear_cross_entropy), plain, inputs, random, what);
    if (problem.options.reduction != Reduction::kNone && !problem.has_probabilities())
      expect_plain_derivatives(with([](const auto&... given) {
                                 const auto& [hidden, map, targets, options] = std::tie(given...);
                                 return filtered_linear_cross_entropy(hidden, map, targets, 0, options).loss;
                               }),
                               plain, inputs, random, what + ", filtered");
    if (problem.has_statistics())
      expect_plain_derivatives(
          with([](const auto&... given) { return linear_cross_entropy_with_statistics(given...).loss; }), plain, inputs,
          random, what + ", with statistics");
  }
}

TEST(PlainDerivatives, OfATiedWeightCountBothOfItsUses) {
  RandomStream random(2, "plain derivatives, tied");
  const at::Tensor targets = ids(12, 20, random), tokens = ids(12, 20, random);
  const auto with = [&](const auto& function) -> Operation {
    return [&, function](const Tensors& leaves) {
      return function(leaves[0].index_select(0, tokens).tanh(), LinearMap{leaves[0], {}}, targets,
                      LinearCrossEntropyOptions{});
    };
  };
  expect_plain_derivatives(with(linear_cross_entropy), with(plain_linear_cross_entropy), {normal({20, 4}, random)},
                           random, "tied");
}

TEST(PlainDerivatives, OfStatisticsExistInForwardMode) {
  RandomStream random(3, "plain derivatives, statistics");
  const at::Tensor hidden = normal({6, 4}, random), weight = normal({11, 4}, random), targets = ids(6, 11, random);
  const auto entropy = [&](const Tensors& given) {
    return linear_cross_entropy_with_statistics(given[0], {given[1], {}}, targets).statistics.entropy;
  };
  const auto plain = [&](const Tensors& given) {
    return plain_token_statistics(given[0], {given[1], {}}, targets).entropy;
  };
  const Tensors inputs{hidden, weight}, directions{normal({6, 4}, random), normal({11, 4}, random)};
  const at::Tensor want = tangent_of(plain, inputs, directions);
  EXPECT_TRUE(tangent_of(entropy, inputs, directions).allclose(want, 1e-9, 1e-11));
  EXPECT_GT(want.abs().sum().item<double>(), 0);
}

TEST(PlainDerivatives, OfLogsumexpAndEntropy) {
  RandomStream random(7, "plain derivatives, logsumexp");
  for (int number = 0; number < 20; ++number) {
    const LogitTransform transform = draw_transform(random);
    const at::Tensor factors = normal({2, 7}, random), temperature = normal({7}, random).abs() + 0.5;
    const bool with_temperature = random.below(2) == 0;
    Tensors inputs{normal({7, 5}, random), normal({13, 5}, random), normal({13}, random)};
    if (with_temperature) inputs.push_back(temperature);
    const auto logsumexp = [&](const Tensors& x) {
      return linear_logsumexp(x[0], {x[1], x[2], transform}, with_temperature ? x[3] : at::Tensor());
    };
    const auto plain_logsumexp = [&](const Tensors& x) {
      return plain_logsumexp_and_entropy(x[0], {x[1], x[2], transform}, with_temperature ? x[3] : at::Tensor())
          .logsumexp;
    };
    expect_plain_derivatives(logsumexp, plain_logsumexp, inputs, random, "logsumexp");
    inputs.resize(3);
    const auto mixed = [&](const LogsumexpAndEntropy& results) {
      return results.logsumexp * factors[0] + results.entropy * factors[1];
    };
    expect_plain_derivatives(
        [&](const Tensors& x) {
          return mixed(linear_logsumexp_and_entropy(x[0], {x[1], x[2], transform}, temperature));
        },
        [&](const Tensors& x) {
          return mixed(plain_logsumexp_and_entropy(x[0], {x[1], x[2], transform}, temperature));
        },
        inputs, random, "logsumexp and entropy");
  }
}

TEST(PlainDerivatives, OfTheBlockOperations) {
  RandomStream random(4, "plain derivatives, blocks");
  expect_plain_derivatives([](const Tensors& x) { return rms_norm(x[0], x[1], 1e-5, at::kDouble); },
                           [](const Tensors& x) { return plain_rms_norm(x[0], x[1], 1e-5, at::kDouble); },
                           {normal({5, 7}, random), normal({7}, random)}, random, "rms_norm");
  expect_plain_derivatives([](const Tensors& x) { return swiglu(x[0]); },
                           [](const Tensors& x) { return plain_swiglu(x[0]); }, {normal({5, 8}, random)}, random,
                           "swiglu");
  const at::Tensor cosine = normal({3, 2}, random), sine = normal({3, 2}, random);
  expect_plain_derivatives([&](const Tensors& x) { return rotary(x[0], cosine, sine, 2); },
                           [&](const Tensors& x) { return plain_rotary(x[0], cosine, sine, 2); },
                           {normal({2, 3, 4, 5}, random)}, random, "rotary");
}

TEST(PlainDerivatives, OfAttention) {
  RandomStream random(5, "plain derivatives, attention");
  // With one key head to each query head, the parts are three views, and ATen's products have every derivative.
  const auto composed = [](const Tensors& x) {
    const auto part = [&](std::int64_t first) { return x[0].narrow(2, first, 2).transpose(1, 2); };
    const at::Tensor scores = part(0).matmul(part(2).transpose(2, 3)) * 0.7;
    const at::Tensor later = at::ones({5, 5}, at::kBool).triu(1);
    return scores.masked_fill(later, -std::numeric_limits<double>::infinity())
        .softmax(3)
        .matmul(part(4))
        .transpose(1, 2)
        .reshape({10, 6});
  };
  expect_plain_derivatives([](const Tensors& x) { return packed_causal_attention(x[0], 2, 0.7); }, composed,
                           {normal({2, 5, 6, 3}, random)}, random, "attention");
}

TEST(PlainDerivatives, SecondBackwardPassesLeaveGradientsAlreadyHandedOutAlone) {
  RandomStream random(6, "handed out");
  const at::Tensor hidden = normal({9, 4}, random).requires_grad_(), weight = normal({40, 4}, random).requires_grad_();
  for (const bool first_is_one : {true, false}) {
    const at::Tensor loss = linear_cross_entropy(hidden, {weight, {}}, ids(9, 40, random));
    const at::Tensor first = first_is_one ? loss : loss * 2;
    const Tensors handed_out = torch::autograd::grad({first}, {hidden, weight}, {}, /*retain_graph=*/true);
    const Tensors copies{handed_out[0].clone(), handed_out[1].clone()};
    const Tensors again = torch::autograd::grad({loss * 1024}, {hidden, weight}, {}, /*retain_graph=*/true);
    (loss * 1024).backward();
    for (int which = 0; which < 2; ++which) {
      EXPECT_TRUE(handed_out[which].equal(copies[which]));
      EXPECT_TRUE(again[which].allclose(copies[which] * (first_is_one ? 1024.0 : 512.0)));
    }
  }
}

}  // namespace
}  // namespace lmhead
