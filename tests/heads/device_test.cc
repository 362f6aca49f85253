// Every head, in every way of building it, gives on any device what it gives on the CPU.
#include <gtest/gtest.h>

#include "tests/heads/head_bench.h"
#include "tests/support/devices.h"

namespace lmhead {
namespace {

using Tensors = std::vector<at::Tensor>;

/// Logits, losses, scores, and the gradients of every objective, brought to the CPU.
Tensors outcome_of(Bench& bench) {
  Tensors results{bench.head->logits(bench.input())};
  const TokenScores scores = bench.head->token_scores(bench.input(), bench.given_targets);
  results.insert(results.end(), {scores.log_probability, scores.correct});
  bench.require_gradients();
  const auto take_gradients = [&] {
    const auto take = [&](at::Tensor& tensor) {
      if (tensor.grad().defined()) results.push_back(tensor.grad());
      tensor.mutable_grad().reset();
    };
    take(bench.hidden);
    for (at::Tensor& layer : bench.layers) take(layer);
    for (const ParameterPtr& parameter : bench.all)
      if (const at::Tensor gradient = take_gradient(*parameter); gradient.defined()) results.push_back(gradient);
  };
  const at::Tensor losses = bench.head->token_losses(bench.input(), bench.given_targets);
  results.push_back(losses.detach());
  losses.sum().backward();
  take_gradients();
  for (const LossOptions& options : bench.losses()) {
    const at::Tensor loss = bench.head->loss(bench.input(), bench.given_targets, options);
    results.push_back(loss.detach());
    loss.backward();
    take_gradients();
  }
  for (at::Tensor& result : results) result = result.detach().cpu();
  return results;
}

TEST(Devices, EveryHeadTakesTensorsWhereTheyAre) {
  constexpr Shape kShape{12, 33, 9};
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(kShape.hidden_size)) {
      SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << (one.tied ? " tied" : ""));
      Bench here(kind.type, one, kShape);
      const Tensors want = outcome_of(here);
      for (const c10::Device device : test::other_devices()) {
        Bench there(kind.type, one, kShape);
        there.move_to(device);
        const Tensors got = outcome_of(there);
        ASSERT_EQ(got.size(), want.size());
        for (std::size_t index = 0; index < want.size(); ++index) {
          const at::Tensor expected = want[index].to(at::kDouble);
          const double largest = expected.abs().max().item<double>();
          EXPECT_TRUE(got[index].to(at::kDouble).allclose(expected, 2e-4, 2e-5 * (1e-3 + largest)))
              << "result " << index;
        }
      }
    }
}

}  // namespace
}  // namespace lmhead
