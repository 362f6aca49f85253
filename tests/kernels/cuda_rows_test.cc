// The CUDA row kernel's own functions, run on the CPU block by block and thread by thread in the kernel's order.
#define LMHEAD_VECTOR_LEVEL rows_on_host
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <gtest/gtest.h>

#include <functional>
#include <type_traits>
#include <vector>

#include "lmhead/kernels/chunked_cross_entropy.h"
#include "lmhead/kernels/cuda/logit_row_block.h"
#include "lmhead/kernels/fused_rows.h"
#include "lmhead/kernels/linear_logsumexp.h"
#include "tests/kernels/cross_entropy_problem.h"
#include "tests/support/devices.h"

namespace lmhead {
namespace vector::rows_on_host {
namespace {

/// What the first of a warp's lanes has once every lane has taken in those below it.
template <class Value, class Join>
Value joined_in_warp(std::vector<Value> lanes, const Join& join) {
  for (std::size_t distance = 16; distance > 0; distance /= 2)
    for (std::size_t lane = 0; lane + distance < lanes.size(); ++lane)
      lanes[lane] = join(lanes[lane], lanes[lane + distance]);
  return lanes[0];
}

/// The same of a block, whose threads' values are `value_of(thread)`.
template <class Value, class ValueOf, class Join>
Value joined_in_block(int threads, const Value& none, const ValueOf& value_of, const Join& join) {
  constexpr int kWarp = 32;
  std::vector<Value> of_warps(kWarp, none);
  for (int warp = 0; warp < threads / kWarp; ++warp) {
    std::vector<Value> lanes;
    for (int lane = 0; lane < kWarp; ++lane) lanes.push_back(value_of(warp * kWarp + lane));
    of_warps[std::size_t(warp)] = joined_in_warp(lanes, join);
  }
  return joined_in_warp(of_warps, join);
}

template <bool kFigures, class T>
void run_block(const LogitRowsTask& task, std::int64_t index) {
  constexpr int kThreads = 512;
  const LogitRow<T> row(task, index);
  const float of_target = target_logit(row);
  const RowSums sums = joined_in_block(
      kThreads, no_sums(), [&](int thread) { return sums_of_thread<kFigures>(row, thread, kThreads); },
      joined<kFigures>);
  const RowGradient gradient = finish_row<kFigures>(row, sums, of_target, /*writes=*/true);
  if (!task.upstream) return;
  const float squares = joined_in_block(
      kThreads, 0.f, [&](int thread) { return write_gradient<kFigures>(row, gradient, thread, kThreads); },
      std::plus<float>());
  if constexpr (kFigures) write_squares(row, gradient, squares);
}
template <class T>
void run_block(const LogitRowsTask& task, std::int64_t index) {
  if (task.figures) run_block<true, T>(task, index);
  else run_block<false, T>(task, index);
}

int launches = 0;
int run_rows(const LogitRowsTask& task, void*) {
  ++launches;
  for (std::int64_t row = 0; row < task.rows; ++row) {
    if (task.storage == LogitStorage::kFloat) run_block<float>(task, row);
    else if (task.storage == LogitStorage::kBfloat16) run_block<Bfloat16>(task, row);
    else run_block<Float16>(task, row);
  }
  return 0;
}

/// On the stand-in: every pointer must lead into the current device's memory, and the stream be that device's.
int run_rows_on_stand_in(const LogitRowsTask& given, void* stream) {
  LogitRowsTask task = given;
  const auto cross = [](auto&... pointers) {
    const auto one = [](auto& pointer) {
      if (pointer) pointer = static_cast<std::remove_reference_t<decltype(pointer)>>(test::memory_of_stand_in(pointer));
    };
    (one(pointers), ...);
  };
  cross(task.logits, task.bias, task.temperature, task.kept, task.targets, task.target_weight, task.token_weight,
        task.class_weight, task.weight_sum, task.upstream, task.losses, task.row_sums, task.figures);
  const c10::Device current = c10::impl::getDeviceGuardImpl(c10::DeviceType::PrivateUse1)->getDevice();
  return stream == reinterpret_cast<void*>(std::uintptr_t(1 + current.index())) ? run_rows(task, nullptr) : 1;
}

}  // namespace
}  // namespace vector::rows_on_host

namespace {

using namespace test;
namespace host = vector::rows_on_host;

/// Loss and gradients through `chunked_forward` and `chunked_backward`.
Outcome run_in_chunks(const Problem& problem, at::ScalarType type, double upstream, bool backward) {
  const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
  LinearMap map = problem.map();
  map.weight = map.weight.to(type);
  if (map.bias.defined()) map.bias = map.bias.to(wide);
  const CrossEntropyArguments arguments{problem.hidden.to(type), problem.targets, map, problem.options};
  const WantedGradients wanted{true, true, map.bias.defined()};
  const CrossEntropyForward forward = chunked_forward(arguments, backward ? WantedGradients{} : wanted);
  const CrossEntropyGradients found =
      backward ? chunked_backward(arguments, at::full_like(forward.loss, upstream), forward.row_sums, wanted)
               : forward.gradients;
  return {forward.loss, found.hidden, found.weight, found.bias};
}

TEST(CudaRows, AgreeWithPlainInEveryOptionAndType) {
  const FusedRowsOnHost rows(host::run_rows);
  RandomStream random(61, "cuda rows");
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf})
    for (int number = 0; number < 60; ++number) {
      const at::ScalarType drawn = type == at::kHalf ? at::kBFloat16 : type;
      Problem problem = draw(1 + std::int64_t(random.below(20)),
                             2 + std::int64_t(random.below(number % 6 ? 300 : 3000)), 12, drawn, random);
      problem.layout = Layout::kContiguous;
      const bool backward = problem.options.reduction == Reduction::kNone || random.below(2);
      const int before = host::launches;
      const Outcome fused = run_in_chunks(problem, type, 1, backward);
      EXPECT_GT(host::launches, before);
      problem.upstream = at::full_like(fused.loss, 1).to(at::kDouble);
      judge(fused, run(problem, type, plain_linear_cross_entropy),
            run(problem, at::kDouble, plain_linear_cross_entropy), scales_of(problem), drawn, describe(problem, type));
    }
}

TEST(CudaRows, ComeInChunksByTheMemoryThatTheDeviceHas) {
  constexpr std::int64_t kMiB = std::int64_t{1} << 20;
  EXPECT_EQ(fused_chunk_bytes(std::nullopt), 256 * kMiB);
  EXPECT_EQ(fused_chunk_bytes(4096 * kMiB), 256 * kMiB);
  EXPECT_EQ(fused_chunk_bytes(40960 * kMiB), 1280 * kMiB);
  EXPECT_EQ(fused_chunk_bytes(test::stand_in_device(1)), 256 * kMiB);  // it says that it has 8 GiB
  const auto rows_of = [](std::int64_t rows, std::int64_t vocab_size, at::ScalarType type) {
    return FusedRows::rows_per_chunk(at::empty({rows, 1}, type), vocab_size);
  };
  EXPECT_EQ(rows_of(8192, 128256, at::kBFloat16), 1024);  // 1,046 have room: eight alike
  EXPECT_EQ(rows_of(8193, 128256, at::kBFloat16), 1046);  // eight still, if all the room is taken
  EXPECT_EQ(rows_of(8192, 262144, at::kFloat), 256);
  EXPECT_EQ(rows_of(1046, 128256, at::kBFloat16), 1046);  // one chunk
  EXPECT_EQ(rows_of(1047, 128256, at::kBFloat16), 640);   // two
  EXPECT_EQ(rows_of(5, 1 << 30, at::kFloat), 1);
  EXPECT_EQ(rows_of(0, 7, at::kFloat), 1);
}

/// Any cut gives the same losses, and gradients as good as those of a cut-free plain computation.
TEST(CudaRows, GiveTheSameInManyChunksOnADeviceThatAccumulates) {
  RandomStream random(70, "cuda rows: chunks");
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (int number = 0; number < 6; ++number) {
      Problem problem =
          draw(160 + std::int64_t(random.below(90)), 2 + std::int64_t(random.below(60)), 12, type, random);
      problem.layout = Layout::kContiguous;
      Problem there = problem;
      const c10::Device device = test::stand_in_device(1);
      for (at::Tensor* tensor : {&there.hidden, &there.weight, &there.targets, &there.bias, &there.options.class_weight,
                                 &there.options.token_weight, &there.options.temperature})
        if (tensor->defined()) *tensor = tensor->to(device);
      const bool backward = problem.options.reduction == Reduction::kNone || random.below(2);
      const auto in_chunks_of = [&](std::int64_t bytes) {
        const FusedRowsOnHost rows(host::run_rows_on_stand_in, bytes);
        const int before = host::launches;
        Outcome outcome = run_in_chunks(there, type, 1, backward);
        EXPECT_GE(host::launches - before, bytes ? (backward ? 4 : 2) : 1);
        for (at::Tensor* tensor : {&outcome.loss, &outcome.hidden, &outcome.weight, &outcome.bias})
          if (tensor->defined()) *tensor = tensor->cpu();
        return outcome;
      };
      const std::int64_t row = problem.weight.size(0) * std::int64_t(c10::elementSize(type));
      const Outcome whole = in_chunks_of(0), cut = in_chunks_of(130 * row);
      EXPECT_TRUE(cut.loss.equal(whole.loss)) << describe(problem, type);
      problem.upstream = at::full_like(whole.loss, 1).to(at::kDouble);
      const Outcome plain = run(problem, type, plain_linear_cross_entropy),
                    exact = run(problem, at::kDouble, plain_linear_cross_entropy);
      judge(whole, plain, exact, scales_of(problem), type, "whole: " + describe(problem, type));
      judge(cut, plain, exact, scales_of(problem), type, "cut: " + describe(problem, type));
    }
}

TEST(CudaRows, TakeRowsThatNoPackDividesAndRowsShorterThanABlock) {
  const FusedRowsOnHost rows(host::run_rows);
  RandomStream random(62, "cuda rows: sizes");
  for (const std::int64_t vocab_size : {1, 2, 3, 4, 7, 8, 9, 511, 512, 513, 2048, 2049, 4104}) {
    Problem problem{.hidden = normal({3, 5}, random).to(at::kFloat).to(at::kDouble),
                    .weight = normal({vocab_size, 5}, random).to(at::kFloat).to(at::kDouble),
                    .targets = ids(3, vocab_size, random)};
    const Outcome fused = run_in_chunks(problem, at::kFloat, 1, false);
    problem.upstream = at::full_like(fused.loss, 1).to(at::kDouble);
    judge(fused, run(problem, at::kFloat, plain_linear_cross_entropy),
          run(problem, at::kDouble, plain_linear_cross_entropy), scales_of(problem), at::kFloat,
          std::to_string(vocab_size));
  }
}

TEST(CudaRows, GiveTheSumsThatTheCompositionGives) {
  RandomStream random(63, "cuda rows: sums");
  const Problem problem = draw(16, 130, 8, at::kFloat, random);
  const CrossEntropyArguments arguments{problem.hidden.to(at::kFloat),
                                        problem.targets,
                                        {problem.weight.to(at::kFloat), {}, problem.transform},
                                        problem.options};
  const at::Tensor want = chunked_forward(arguments, {}).row_sums;
  const FusedRowsOnHost rows(host::run_rows);
  EXPECT_TRUE(chunked_forward(arguments, {}).row_sums.allclose(want, 1e-5, 1e-5));
}

TEST(CudaRows, GiveTheStatisticsThatTheCompositionGives) {
  RandomStream random(67, "cuda rows: statistics");
  int fused = 0;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf})
    for (int number = 0; number < 40; ++number) {
      Problem problem = draw(1 + std::int64_t(random.below(20)),
                             2 + std::int64_t(random.below(number % 6 ? 300 : 3000)), 12, at::kBFloat16, random);
      if (problem.has_probabilities()) continue;
      if (number % 3 == 0) problem.options = {.ignore_index = problem.options.ignore_index};  // shares the gradient
      const auto chunked = [&](at::ScalarType in, WantedStatistics wanted, bool with_gradients) {
        CrossEntropyArguments arguments{problem.hidden.to(in), problem.targets, problem.map(), problem.options};
        arguments.map.weight = arguments.map.weight.to(in);
        return chunked_forward(arguments, {with_gradients, with_gradients, false}, wanted).statistics;
      };
      for (const WantedStatistics wanted : {WantedStatistics::kScores, WantedStatistics::kAll})
        for (const bool with_gradients : {false, true}) {
          const TokenStatistics want = chunked(at::kDouble, wanted, with_gradients);
          const FusedRowsOnHost rows(host::run_rows);
          const int before = host::launches;
          const TokenStatistics got = chunked(type, wanted, with_gradients);
          EXPECT_EQ(host::launches > before, !problem.options.temperature.defined());
          if (host::launches > before) ++fused;
          for (auto column : kTokenStatistics) {
            ASSERT_EQ((got.*column).defined(), (want.*column).defined());
            if (!(want.*column).defined()) continue;
            const at::Tensor exact = (want.*column).to(at::kDouble), found = (got.*column).to(at::kDouble);
            ASSERT_EQ(found.sizes(), exact.sizes());
            // Products are rounded to the type; a tie that this makes or breaks is another prediction.
            if (column == &TokenStatistics::correct) {
              if (type == at::kFloat) {
                EXPECT_TRUE(found.equal(exact)) << describe(problem, type);
              }
              continue;
            }
            const double tolerance = type == at::kFloat ? 1e-5 : type == at::kHalf ? 0.01 : 0.08;
            EXPECT_LE((found - exact).norm().item<double>(), tolerance * (0.1 + exact.norm().item<double>()))
                << describe(problem, type);
          }
        }
    }
  EXPECT_GT(fused, 100);
}

TEST(CudaRows, GiveEntropiesBesideLogsumexps) {
  RandomStream random(68, "cuda rows: entropy");
  for (int number = 0; number < 12; ++number) {
    const LinearMap map{normal({70, 6}, random).to(at::kHalf), {}, draw_transform(random)};
    const at::Tensor hidden = normal({9, 6}, random).to(at::kHalf);
    const at::Tensor temperature = (normal({9}, random).abs() + 0.5).to(at::kFloat);
    const auto exact = plain_logsumexp_and_entropy(
        hidden.to(at::kDouble), {map.weight.to(at::kDouble), {}, map.transform}, temperature.to(at::kDouble));
    const FusedRowsOnHost rows(host::run_rows);
    const int before = host::launches;
    const auto fused = linear_logsumexp_and_entropy(hidden, map, temperature);
    EXPECT_EQ(host::launches, before + 1);
    EXPECT_TRUE(fused.logsumexp.to(at::kDouble).allclose(exact.logsumexp, 5e-3, 5e-3));
    EXPECT_TRUE(fused.entropy.to(at::kDouble).allclose(exact.entropy, 5e-3, 5e-3));
  }
}

TEST(CudaRows, MakeTheLossOfATargetOutsideTheVocabularyNoNumber) {
  const FusedRowsOnHost rows(host::run_rows);
  const at::Tensor hidden = at::ones({3, 4}, at::kFloat), weight = at::ones({40, 4}, at::kFloat);
  for (const std::int64_t wrong : {std::int64_t{40}, std::int64_t{-1}, std::int64_t{1} << 40}) {
    at::Tensor targets = at::full({3}, 7, at::kLong);
    targets[1] = wrong;
    const LinearCrossEntropyOptions options{.reduction = Reduction::kNone};
    const at::Tensor loss = chunked_forward({hidden, targets, {weight, {}}, options}, {}).loss;
    EXPECT_EQ(loss.isnan().sum().item<std::int64_t>(), 1) << wrong;
    EXPECT_TRUE(loss[1].isnan().item<bool>()) << wrong;
  }
}

TEST(CudaRows, NameTheFirstOfEqualLogits) {
  const FusedRowsOnHost rows(host::run_rows);
  const at::Tensor hidden = at::ones({1, 1}, at::kHalf);
  for (const auto& [first, second] : {std::pair(0, 1), {5, 900}, {511, 512}, {40, 1999}, {3, 11}}) {
    at::Tensor weight = at::zeros({2000, 1}, at::kHalf);
    weight[first] = 2, weight[second] = 2;
    const auto is_named = [&](std::int64_t id) {
      return token_statistics(hidden, {weight, {}}, at::full({1}, id, at::kLong), false).correct.item<bool>();
    };
    EXPECT_TRUE(is_named(first)) << first;
    EXPECT_FALSE(is_named(second)) << second;
  }
}

/// What the kernel gets on a device is that device's memory, its stream and it itself as the current one.
TEST(CudaRows, AreGivenPointersOfTheDeviceOfTheirTensors) {
  RandomStream random(69, "cuda rows: device");
  const FusedRowsOnHost rows(host::run_rows_on_stand_in);
  for (const c10::DeviceIndex index : {0, 1})
    for (int number = 0; number < 30; ++number) {
      const Problem problem = draw(9, 70, 6, at::kFloat, random);
      const auto losses_on = [&](c10::Device device) {
        const auto there = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor.to(device) : tensor; };
        const auto wide = [&](const at::Tensor& tensor) {
          return tensor.defined() ? tensor.to(at::kFloat).to(device) : tensor;
        };
        LinearCrossEntropyOptions options = problem.options;
        options.class_weight = wide(options.class_weight), options.token_weight = wide(options.token_weight),
        options.temperature = wide(options.temperature);
        const at::Tensor hidden = wide(problem.hidden).requires_grad_(), weight = wide(problem.weight).requires_grad_();
        const at::Tensor targets = problem.has_probabilities() ? wide(problem.targets) : there(problem.targets);
        at::Tensor loss =
            linear_cross_entropy(hidden, {weight, wide(problem.bias), problem.transform}, targets, options);
        loss.sum().backward();
        std::vector<at::Tensor> results{loss.detach(), hidden.grad(), weight.grad()};
        if (problem.has_statistics()) {
          const auto with = linear_cross_entropy_with_statistics(
              hidden, {weight, wide(problem.bias), problem.transform}, targets, options);
          results.insert(results.end(), {with.statistics.entropy.detach(), with.statistics.hidden_gradient.detach()});
        }
        for (at::Tensor& result : results) result = result.cpu();
        return results;
      };
      const int before = host::launches;
      const std::vector<at::Tensor> got = losses_on(test::stand_in_device(index));
      EXPECT_GT(host::launches, before);
      const std::vector<at::Tensor> want = losses_on(c10::Device(c10::DeviceType::CPU));
      for (std::size_t place = 0; place < want.size(); ++place)
        EXPECT_TRUE(got[place].allclose(want[place], 2e-4, 2e-5)) << describe(problem, at::kFloat) << ", " << place;
    }
}

TEST(CudaRows, GiveLogsumexpsAndTheirGradients) {
  const FusedRowsOnHost rows(host::run_rows);
  RandomStream random(66, "cuda rows: logsumexp");
  for (int number = 0; number < 12; ++number) {
    const LogitTransform transform = draw_transform(random);
    const at::Tensor hidden = normal({9, 6}, random).to(at::kHalf), weight = normal({70, 6}, random).to(at::kHalf);
    const at::Tensor bias = normal({70}, random).to(at::kFloat), upstream = normal({9}, random).to(at::kFloat);
    const at::Tensor temperature = (normal({9}, random).abs() + 0.5).to(at::kFloat);
    const auto outcome = [&](at::ScalarType type, at::ScalarType wide, const auto& function) {
      const auto leaf = [](const at::Tensor& tensor, at::ScalarType as) {
        return tensor.to(as).detach().requires_grad_();
      };
      const at::Tensor h = leaf(hidden, type), w = leaf(weight, type), b = leaf(bias, wide);
      const at::Tensor value = function(h, LinearMap{w, b, transform}, temperature.to(wide));
      (value * upstream.to(wide)).sum().backward();
      std::vector<at::Tensor> results{value.detach(), h.grad(), w.grad(), b.grad()};
      for (at::Tensor& result : results) result = result.to(at::kDouble);
      return results;
    };
    const int before = host::launches;
    const auto fused = outcome(at::kHalf, at::kFloat, linear_logsumexp);
    EXPECT_EQ(host::launches, before + 2);
    const auto exact = outcome(at::kDouble, at::kDouble,
                               [](const auto&... given) { return plain_logsumexp_and_entropy(given...).logsumexp; });
    for (std::size_t index = 0; index < exact.size(); ++index)
      EXPECT_LE((fused[index] - exact[index]).norm().item<double>(), 5e-3 * (0.1 + exact[index].norm().item<double>()))
          << number << ", result " << index;
  }
}

TEST(CudaRows, KeepTheDigitsOfLargeLogits) {
  const FusedRowsOnHost rows(host::run_rows);
  RandomStream random(64, "cuda rows: large");
  Problem problem = draw(12, 200, 8, at::kFloat, random);
  problem.options = {}, problem.transform = {}, problem.bias = at::Tensor(), problem.targets = ids(12, 200, random);
  problem.layout = Layout::kContiguous;
  problem.weight =
      (problem.weight * (1e4 / problem.hidden.matmul(problem.weight.t()).abs().max())).to(at::kFloat).to(at::kDouble);
  const Outcome fused = run_in_chunks(problem, at::kFloat, 1, false);
  problem.upstream = at::full_like(fused.loss, 1).to(at::kDouble);
  judge(fused, run(problem, at::kFloat, plain_linear_cross_entropy),
        run(problem, at::kDouble, plain_linear_cross_entropy), scales_of(problem), at::kFloat, "large logits");
}

TEST(CudaRows, AreNotThereWithoutTheirLibrary) {
  RandomStream random(65, "cuda rows: none");
  EXPECT_FALSE(FusedRows::of(normal({2, 2}, random).to(at::kFloat)));
  const FusedRowsOnHost rows(host::run_rows);
  EXPECT_TRUE(FusedRows::of(normal({2, 2}, random).to(at::kFloat)));
  EXPECT_FALSE(FusedRows::of(normal({2, 2}, random)));  // float64 takes the composition
}

}  // namespace
}  // namespace lmhead
