// Losses after a step by rows against the composition that makes all logits at once.
#include "lmhead/kernels/stepped_losses.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <limits>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

struct Problem {
  explicit Problem(std::int64_t rows, std::int64_t size)
      : product(at::randn({rows, size}, at::kDouble) * 8),
        direction(at::randn({rows, size}, at::kDouble)),
        targets(at::randint(size, {rows}, at::kLong)) {}
  at::Tensor product, direction, targets;
};

TEST(SteppedLosses, AreThePlainOnes) {
  RandomStream random(3, "stepped losses");
  for (const std::int64_t size : {1, 7, 64, 1000}) {
    for (int round = 0; round < 8; ++round) {
      const Problem problem(5, size);
      const LogitTransform transform = round == 0 ? LogitTransform() : test::draw_transform(random);
      for (const double step : {0.0, 1e-6, 3.0}) {
        const at::Tensor want =
                             plain_stepped_losses(problem.product, problem.direction, step, problem.targets, transform),
                         got = stepped_losses(problem.product, problem.direction, step, problem.targets, transform);
        ASSERT_EQ(got.sizes(), want.sizes());
        // A few units in the last place of logits of at most a few hundred.
        EXPECT_LE((got - want).abs().max().item<double>(), 1e-12) << size << ' ' << round << ' ' << step;
      }
    }
  }
}

TEST(SteppedLosses, TakeMatricesThatAreNotContiguousAndBadNumbers) {
  const Problem problem(6, 40);
  const at::Tensor turned = problem.product.t().contiguous().t();
  EXPECT_TRUE(stepped_losses(turned, problem.direction, 0.5, problem.targets, {})
                  .allclose(stepped_losses(problem.product, problem.direction, 0.5, problem.targets, {}), 0, 1e-12));
  for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    at::Tensor broken = problem.product.clone();
    broken[2][3] = bad;
    const at::Tensor losses = stepped_losses(broken, problem.direction, 0.5, problem.targets, {});
    EXPECT_FALSE(losses[2].isfinite().item<bool>());
    EXPECT_TRUE(losses[1].isfinite().item<bool>());
  }
  EXPECT_THROW(stepped_losses(problem.product, problem.direction.narrow(1, 0, 39), 1, problem.targets, {}), Error);
}

}  // namespace
}  // namespace lmhead
