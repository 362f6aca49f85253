// The CUDA row kernel's own functions, run on the CPU block by block and thread by thread in the kernel's order.
#define LMHEAD_VECTOR_LEVEL rows_on_host
#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <gtest/gtest.h>

#include <vector>

#include "lmhead/kernels/chunked_cross_entropy.h"
#include "lmhead/kernels/cuda/logit_row_block.h"
#include "lmhead/kernels/fused_rows.h"
#include "lmhead/kernels/linear_logsumexp.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace vector::rows_on_host {
namespace {

/// As `joined_in_warp`: what the first of `count` lanes has in the end.
RowSums joined_in_warp(std::vector<RowSums> lanes) {
  for (std::size_t distance = 16; distance > 0; distance /= 2)
    for (std::size_t lane = 0; lane + distance < lanes.size(); ++lane)
      lanes[lane] = joined(lanes[lane], lanes[lane + distance]);
  return lanes[0];
}

template <class T>
void run_block(const LogitRowsTask& task, std::int64_t index) {
  constexpr int kThreads = 512, kWarp = 32;
  const LogitRow<T> row(task, index);
  const float of_target = target_logit(row);
  std::vector<RowSums> of_warps(kWarp, no_sums());
  for (int warp = 0; warp < kThreads / kWarp; ++warp) {
    std::vector<RowSums> lanes;
    for (int lane = 0; lane < kWarp; ++lane) lanes.push_back(sums_of_thread(row, warp * kWarp + lane, kThreads));
    of_warps[std::size_t(warp)] = joined_in_warp(lanes);
  }
  const RowGradient gradient = finish_row(row, joined_in_warp(of_warps), of_target, /*writes=*/true);
  for (int thread = 0; task.upstream && thread < kThreads; ++thread) write_gradient(row, gradient, thread, kThreads);
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
