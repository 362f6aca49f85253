// Every operation of this room takes tensors of any device and gives there what it gives on the CPU.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/block_operations.h"
#include "lmhead/kernels/linear_distillation.h"
#include "lmhead/kernels/linear_logsumexp.h"
#include "lmhead/kernels/packed_attention.h"
#include "lmhead/kernels/vocabulary_shard.h"
#include "tests/kernels/cross_entropy_problem.h"
#include "tests/support/devices.h"

namespace lmhead {
namespace {

using namespace test;
using Tensors = std::vector<at::Tensor>;
using Operation = std::function<Tensors(const Tensors&)>;

/// Inputs that need a gradient, and such that do not; tensors may be undefined.
struct Inputs {
  Tensors leaves, others;
};

/// Outputs of `operation` on copies of `inputs` on `device`, leaves first, and gradients of the leaves for upstreams of
/// alternating sign, all brought back.
Tensors outcome_on(c10::Device device, const Inputs& inputs, const Operation& operation) {
  Tensors given;
  for (const at::Tensor& leaf : inputs.leaves)
    given.push_back(leaf.defined() ? leaf.to(device, leaf.scalar_type(), false, true).requires_grad_() : leaf);
  for (const at::Tensor& other : inputs.others) given.push_back(other.defined() ? other.to(device) : other);
  const Tensors outputs = operation(given);
  Tensors results;
  at::Tensor sum;
  for (const at::Tensor& output : outputs) {
    if (!output.defined()) continue;
    EXPECT_EQ(output.device().type(), device.type());
    results.push_back(output.detach().cpu());
    if (!output.requires_grad()) continue;
    const at::Tensor part = (output * output.detach().cos()).sum();
    sum = sum.defined() ? sum + part : part;
  }
  if (sum.defined()) sum.backward();
  for (std::size_t index = 0; index < inputs.leaves.size(); ++index)
    if (given[index].defined() && given[index].grad().defined()) results.push_back(given[index].grad().cpu());
  return results;
}

void expect_same_everywhere(const Inputs& inputs, const Operation& operation, double tolerance,
                            const std::string& what) {
  const Tensors want = outcome_on(c10::Device(c10::DeviceType::CPU), inputs, operation);
  ASSERT_FALSE(want.empty()) << what;
  for (const c10::Device device : other_devices()) {
    const Tensors got = outcome_on(device, inputs, operation);
    ASSERT_EQ(got.size(), want.size()) << what;
    for (std::size_t index = 0; index < want.size(); ++index) {
      ASSERT_EQ(got[index].sizes(), want[index].sizes()) << what;
      ASSERT_EQ(got[index].scalar_type(), want[index].scalar_type()) << what;
      const at::Tensor expected = want[index].to(at::kDouble);
      if (expected.numel() == 0) continue;
      const at::Tensor finite = expected.nan_to_num(0, 0, 0);
      EXPECT_TRUE(got[index]
                      .to(at::kDouble)
                      .allclose(expected, tolerance, tolerance * (1e-3 + finite.abs().max().item<double>()),
                                /*equal_nan=*/true))
          << what << ", result " << index << " on " << device;
    }
  }
}

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kBFloat16};
/// Both round, each in its own order; in bfloat16 products and gradients are rounded to eight bits.
double tolerance_of(at::ScalarType type) { return type == at::kDouble ? 1e-9 : type == at::kFloat ? 2e-4 : 0.06; }
at::Tensor as(const at::Tensor& tensor, at::ScalarType type) { return tensor.defined() ? tensor.to(type) : tensor; }
at::ScalarType wide(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

TEST(Devices, LinearCrossEntropyWithEveryOption) {
  RandomStream random(51, "devices: cross-entropy");
  for (const at::ScalarType type : kTypes)
    for (int number = 0; number < 40; ++number) {
      const Problem problem =
          draw(1 + std::int64_t(random.below(40)), 2 + std::int64_t(random.below(300)), 12, type, random);
      const LinearCrossEntropyOptions& options = problem.options;
      const Inputs inputs{{as(problem.hidden, type), as(problem.weight, type), as(problem.bias, wide(type))},
                          {problem.has_probabilities() ? as(problem.targets, wide(type)) : problem.targets,
                           as(options.class_weight, wide(type)), as(options.token_weight, wide(type)),
                           as(options.temperature, wide(type))}};
      const auto options_of = [&](const Tensors& given) {
        LinearCrossEntropyOptions there = options;
        there.class_weight = given[4], there.token_weight = given[5], there.temperature = given[6];
        return there;
      };
      const auto loss = [&](const Tensors& given) -> Tensors {
        return {linear_cross_entropy(given[0], {given[1], given[2], problem.transform}, given[3], options_of(given))};
      };
      expect_same_everywhere(inputs, loss, tolerance_of(type), describe(problem, type));
      if (!problem.has_statistics()) continue;
      const auto with_statistics = [&](const Tensors& given) -> Tensors {
        const auto [value, found] = linear_cross_entropy_with_statistics(
            given[0], {given[1], given[2], problem.transform}, given[3], options_of(given));
        return {value,         found.log_probability,       found.logsumexp,
                found.entropy, found.logit_gradient_square, found.hidden_gradient};
      };
      expect_same_everywhere(inputs, with_statistics, tolerance_of(type), "statistics, " + describe(problem, type));
    }
}

/// Many rows of a vocabulary that nothing divides: on a GPU more logits than 32 bits count, in more than one chunk.
TEST(Devices, LinearCrossEntropyOfManyRows) {
  RandomStream random(60, "devices: many rows");
  for (const c10::Device device : other_devices()) {
    const std::int64_t rows = device.is_cuda() ? 8193 : 33, classes = device.is_cuda() ? 262145 : 1025;
    const at::Tensor hidden = normal({rows, 8}, random).to(at::kBFloat16);
    const at::Tensor weight = normal({classes, 8}, random).to(at::kBFloat16), targets = ids(rows, classes, random);
    const auto losses_of = [&](const at::Tensor& some_hidden, const at::Tensor& some_targets, c10::Device place) {
      const at::Tensor leaf = some_hidden.to(place, at::kBFloat16, false, true).requires_grad_();
      const at::Tensor losses =
          linear_cross_entropy(leaf, {weight.to(place), {}}, some_targets.to(place), {.reduction = Reduction::kNone});
      losses.sum().backward();
      return std::pair(losses.detach().cpu().to(at::kDouble), leaf.grad().cpu().to(at::kDouble));
    };
    const auto [losses, gradients] = losses_of(hidden, targets, device);
    for (const std::int64_t row : {std::int64_t{0}, rows / 2, rows - 1}) {
      const auto [loss, gradient] =
          losses_of(hidden.slice(0, row, row + 1), targets.slice(0, row, row + 1), c10::Device(c10::DeviceType::CPU));
      EXPECT_NEAR(losses[row].item<double>(), loss[0].item<double>(), 0.05) << device << ", row " << row;
      EXPECT_LT((gradients[row] - gradient[0]).norm().item<double>(), 0.05 * (0.1 + gradient.norm().item<double>()))
          << device << ", row " << row;
    }
  }
}

TEST(Devices, TokenStatistics) {
  RandomStream random(52, "devices: statistics");
  for (const at::ScalarType type : kTypes)
    for (const bool with_gradient : {false, true}) {
      const Inputs inputs{{},
                          {as(normal({33, 8}, random), type), as(normal({90, 8}, random), type), ids(33, 90, random)}};
      const auto statistics = [&](const Tensors& given) -> Tensors {
        const TokenStatistics found = token_statistics(given[0], {given[1], {}, {0.75, 5}}, given[2], with_gradient);
        return {found.log_probability, found.logsumexp, found.entropy, found.logit_gradient_square,
                found.hidden_gradient};
      };
      expect_same_everywhere(inputs, statistics, tolerance_of(type), "token_statistics");
    }
}

TEST(Devices, LogsumexpEntropyAndTargetLogits) {
  RandomStream random(53, "devices: logsumexp");
  for (const at::ScalarType type : kTypes)
    for (int number = 0; number < 15; ++number) {
      const LogitTransform transform = draw_transform(random);
      const bool has_bias = random.below(2), has_temperature = random.below(2);
      const Inputs inputs{{as(normal({21, 8}, random), type), as(normal({130, 8}, random), type),
                           has_bias ? as(normal({130}, random), wide(type)) : at::Tensor()},
                          {has_temperature ? as(normal({21}, random).abs() + 0.5, wide(type)) : at::Tensor(),
                           ids(42, 130, random).view({21, 2})}};
      const auto operation = [&](const Tensors& given) -> Tensors {
        const LinearMap map{given[1], given[2], transform};
        const auto both = linear_logsumexp_and_entropy(given[0], map, given[3]);
        return {linear_logsumexp(given[0], map, given[3]), both.logsumexp, both.entropy,
                target_logits(given[0], map, given[4], given[3])};
      };
      expect_same_everywhere(inputs, operation, tolerance_of(type), "linear_logsumexp");
    }
}

TEST(Devices, TemperatureOfALogsumexpHasItsGradient) {
  RandomStream random(54, "devices: temperature");
  const Inputs inputs{{normal({9, 4}, random), normal({30, 4}, random), normal({9}, random).abs() + 0.5}, {}};
  const auto operation = [](const Tensors& given) -> Tensors {
    return {linear_logsumexp(given[0], {given[1], {}}, given[2])};
  };
  expect_same_everywhere(inputs, operation, 1e-9, "temperature");
}

TEST(Devices, Distillation) {
  RandomStream random(55, "devices: distillation");
  for (const at::ScalarType type : kTypes)
    for (int number = 0; number < 18; ++number) {
      DistillationOptions options{
          .divergence = Divergence(number % 3), .beta = 0.3, .reduction = Reduction(number / 3 % 3)};
      if (random.below(2)) options.temperature = 2;
      const bool is_weighted = random.below(2);
      const Inputs inputs{
          {as(normal({17, 6}, random), type), as(normal({70, 6}, random), type), as(normal({70}, random), wide(type))},
          {as(normal({17, 9}, random), type), as(normal({70, 9}, random), type),
           is_weighted ? as(normal({17}, random).abs(), wide(type)) : at::Tensor()}};
      const auto operation = [&](const Tensors& given) -> Tensors {
        DistillationOptions there = options;
        there.token_weight = given[5];
        return {linear_distillation(given[0], {given[1], given[2]}, given[3], {given[4], {}}, there)};
      };
      expect_same_everywhere(inputs, operation, tolerance_of(type), "linear_distillation");
    }
}

TEST(Devices, BlockOperations) {
  RandomStream random(56, "devices: blocks");
  for (const at::ScalarType type : kTypes) {
    const Inputs inputs{{as(normal({6, 16}, random), type), as(normal({16}, random), wide(type)),
                         as(normal({2, 3, 4, 8}, random), type)},
                        {as(normal({3, 3}, random), wide(type)), as(normal({3, 3}, random), wide(type))}};
    const auto operation = [&](const Tensors& given) -> Tensors {
      return {rms_norm(given[0], given[1], 1e-5, type), swiglu(given[0]), rotary(given[2], given[3], given[4], 3)};
    };
    expect_same_everywhere(inputs, operation, tolerance_of(type), "block operations");
  }
}

TEST(Devices, PackedAttention) {
  RandomStream random(57, "devices: attention");
  for (const at::ScalarType type : kTypes) {
    const Inputs inputs{{as(normal({2, 7, 8, 16}, random), type)}, {}};
    const auto operation = [](const Tensors& given) -> Tensors { return {packed_causal_attention(given[0], 4, 0.25)}; };
    expect_same_everywhere(inputs, operation, tolerance_of(type), "packed attention");
  }
}

TEST(Devices, VocabularyShards) {
  RandomStream random(58, "devices: shards");
  for (const at::ScalarType type : kTypes) {
    const at::Tensor targets = ids(19, 50, random);
    const Inputs inputs{
        {},
        {as(normal({19, 6}, random), type), as(normal({50, 6}, random), type), as(normal({50}, random), wide(type)),
         targets, as(normal({50}, random).abs(), wide(type)), normal({19}, random).abs()}};
    const auto operation = [&](const Tensors& given) -> Tensors {
      const VocabularyShard shard{given[0], {given[1], given[2], {0.5, 7}}, given[3], {}, given[4]};
      const at::Tensor sums = vocabulary_shard_sums(shard, true, true);
      const at::Tensor largest = sums.select(1, 0), logsumexp = sums.select(1, 1);
      const at::Tensor factors = at::stack({largest, logsumexp, given[5], given[5], given[5] * 0.1}, 1);
      const auto found = vocabulary_shard_gradients(shard, factors, {true, true, true}, true);
      return {sums, found.hidden, found.weight, found.bias, found.squares};
    };
    expect_same_everywhere(inputs, operation, tolerance_of(type), "vocabulary shard");
  }
}

TEST(Devices, TheFilterSaysThatItIsForTheCpu) {
  RandomStream random(59, "devices: filter");
  for (const c10::Device device : other_devices()) {
    const at::Tensor hidden = normal({4, 3}, random).to(device).requires_grad_();
    const at::Tensor weight = normal({9, 3}, random).to(device), targets = ids(4, 9, random).to(device);
    EXPECT_THROW(filtered_linear_cross_entropy(hidden, {weight, {}}, targets, 1e-3), Error);
  }
}

}  // namespace
}  // namespace lmhead
