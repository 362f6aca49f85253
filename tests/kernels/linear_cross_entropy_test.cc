#include "lmhead/kernels/linear_cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <limits>
#include <sstream>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"
#include "lmhead/kernels/chunked_cross_entropy.h"
#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kBFloat16};

TEST(LinearCrossEntropy, IsAsExactAsPlainOnBothSidesOfEveryBoundary) {
  RandomStream random(1, "boundaries");
  const std::int64_t shapes[][3] = {{1, 2, 1},     {2, 15, 3},      {3, 16, 8},     {5, 17, 1},     {31, 63, 7},
                                    {64, 65, 16},  {255, 1023, 20}, {256, 1024, 8}, {257, 1025, 5}, {40, 2047, 33},
                                    {513, 130, 9}, {20, 8193, 65},  {20, 40001, 4}};
  for (const auto& shape : shapes) {
    for (const at::ScalarType type : kTypes) {
      const Problem problem = draw(shape[0], shape[1], shape[2], type, random);
      expect_agreement(problem, type, describe(problem, type));
    }
  }
}

TEST(LinearCrossEntropy, NoTokensGiveAnEmptyLossAndZeroGradients) {
  for (const Reduction reduction : {Reduction::kSum, Reduction::kNone}) {
    const at::Tensor hidden = at::zeros({0, 4}).requires_grad_(), weight = at::ones({9, 4}).requires_grad_();
    const at::Tensor loss =
        linear_cross_entropy(hidden, {weight, {}}, at::zeros({0}, at::kLong), {.reduction = reduction});
    EXPECT_EQ(loss.numel(), reduction == Reduction::kSum ? 1 : 0);
    loss.sum().backward();
    EXPECT_EQ(weight.grad().abs().sum().item<double>(), 0);
    EXPECT_EQ(hidden.grad().numel(), 0);
  }
}

TEST(LinearCrossEntropy, AllTargetsIgnoredGivesTorchsLossAndZeroGradients) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
    const at::Tensor hidden = at::ones({3, 4}).requires_grad_(), weight = at::ones({9, 4}).requires_grad_();
    const at::Tensor loss =
        linear_cross_entropy(hidden, {weight, {}}, at::full({3}, -100, at::kLong), {.reduction = reduction});
    const double total = loss.sum().item<double>();
    EXPECT_TRUE(reduction == Reduction::kMean ? std::isnan(total) : total == 0) << total;
    loss.sum().backward();
    EXPECT_EQ(weight.grad().abs().sum().item<double>(), 0);
    EXPECT_EQ(hidden.grad().abs().sum().item<double>(), 0);
  }
}

TEST(LinearCrossEntropy, OneClassCostsNothing) {
  RandomStream random(4, "one class");
  const at::Tensor hidden = normal({5, 3}, random).to(at::kFloat).requires_grad_();
  const at::Tensor weight = normal({1, 3}, random).to(at::kFloat).requires_grad_();
  const at::Tensor loss = linear_cross_entropy(hidden, {weight, {}}, at::zeros({5}, at::kLong));
  loss.backward();
  EXPECT_EQ(loss.item<double>(), 0);
  EXPECT_EQ(weight.grad().abs().sum().item<double>(), 0);
}

TEST(LinearCrossEntropy, HugeLogitsAndForbiddenClassesStayExact) {
  RandomStream random(5, "extreme");
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto mode : {LinearCrossEntropyMode::kFast, LinearCrossEntropyMode::kSmall}) {
    Problem problem;
    problem.hidden = normal({20, 6}, random).to(at::kFloat).to(at::kDouble);
    problem.weight = normal({1100, 6}, random).to(at::kFloat).to(at::kDouble);
    problem.targets = ids(20, 900, random);
    problem.bias = (at::rand({1100}, at::kDouble) * 2e4 - 1e4).to(at::kFloat).to(at::kDouble);
    problem.bias.narrow(0, 1000, 100).fill_(-infinity);
    problem.options.mode = mode;
    problem.upstream = at::full({}, 1.5, at::kDouble);
    expect_agreement(problem, at::kFloat, "extreme");
    problem.bias.fill_(-infinity).narrow(0, 3, 1).fill_(1e4);  // one class is possible, and it is the target
    problem.targets.fill_(3);
    const Outcome fast = run(problem, at::kFloat, linear_cross_entropy);
    EXPECT_EQ(fast.loss.item<double>(), 0);
    EXPECT_EQ(fast.hidden.abs().sum().item<double>(), 0);
    problem.targets.fill_(4);  // an impossible target
    EXPECT_EQ(run(problem, at::kFloat, linear_cross_entropy).loss.item<double>(), infinity);
  }
}

TEST(LinearCrossEntropy, AWeightThatIsUsedElsewhereTooGetsBothGradients) {
  RandomStream random(6, "tied");
  const at::Tensor targets = ids(30, 50, random), inputs = ids(30, 50, random), start = normal({50, 8}, random);
  const auto gradient = [&](auto&& loss_of) {
    const at::Tensor weight = start.clone().requires_grad_();
    loss_of(weight.index_select(0, inputs).tanh(), LinearMap{weight, {}}, targets, LinearCrossEntropyOptions{})
        .backward();
    return weight.grad();
  };
  EXPECT_TRUE(gradient(linear_cross_entropy).allclose(gradient(plain_linear_cross_entropy), 1e-10, 1e-13));
}

TEST(LinearCrossEntropy, OnlyTheGradientsThatAreAskedForAreFormed) {
  RandomStream random(7, "wanted");
  const at::Tensor hidden = normal({9, 4}, random), weight = normal({40, 4}, random), targets = ids(9, 40, random);
  const at::Tensor only_hidden = hidden.clone().requires_grad_();
  linear_cross_entropy(only_hidden, {weight, {}}, targets).backward();
  const at::Tensor exact = hidden.clone().requires_grad_();
  plain_linear_cross_entropy(exact, {weight, {}}, targets).backward();
  EXPECT_TRUE(only_hidden.grad().allclose(exact.grad(), 1e-10, 1e-13));
  EXPECT_FALSE(linear_cross_entropy(hidden, {weight, {}}, targets).requires_grad());
}

TEST(LinearCrossEntropy, ASecondBackwardPassThroughAKeptGraphGivesTheSameGradient) {
  RandomStream random(8, "kept");
  const at::Tensor hidden = normal({9, 4}, random).requires_grad_(), weight = normal({40, 4}, random);
  const at::Tensor loss = linear_cross_entropy(hidden, {weight, {}}, ids(9, 40, random)) * 3;
  loss.backward({}, /*retain_graph=*/true);
  const at::Tensor first = hidden.grad().clone();
  hidden.mutable_grad().reset();
  loss.backward();
  EXPECT_TRUE(hidden.grad().equal(first));
}

TEST(LinearCrossEntropy, TheSameThreadCountGivesTheSameBitsAndAnotherCountTheSameNumbers) {
  RandomStream random(10, "threads");
  const int threads = at::get_num_threads();
  for (const std::int64_t vocab_size : {300, 8300}) {  // rows shared out, vocabulary shared out
    Problem problem;
    problem.hidden = normal({530, 24}, random), problem.weight = normal({vocab_size, 24}, random);
    problem.targets = ids(530, vocab_size, random), problem.upstream = at::ones({}, at::kDouble);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      at::set_num_threads(2);
      const Outcome first = run(problem, type, linear_cross_entropy), second = run(problem, type, linear_cross_entropy);
      EXPECT_TRUE(first.loss.equal(second.loss) && first.hidden.equal(second.hidden) &&
                  first.weight.equal(second.weight));
      at::set_num_threads(1);
      const Outcome alone = run(problem, type, linear_cross_entropy);
      at::set_num_threads(threads);
      const double tolerance = type == at::kFloat ? 1e-5 : 2e-2;
      const auto far = [](const at::Tensor& a, const at::Tensor& b) {
        return (a - b).norm().item<double>() / b.norm().item<double>();
      };
      EXPECT_LE(far(first.loss, alone.loss), 1e-6);
      EXPECT_LE(far(first.hidden, alone.hidden), tolerance);
      EXPECT_LE(far(first.weight, alone.weight), tolerance);
    }
  }
}

TEST(LinearCrossEntropy, NamesWhatDoesNotFit) {
  const at::Tensor hidden = at::ones({3, 4}), weight = at::ones({9, 4}), targets = at::zeros({3}, at::kLong);
  EXPECT_THROW(linear_cross_entropy(hidden, {at::ones({9, 5}), {}}, targets), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, {weight.to(at::kDouble), {}}, targets), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, {weight, at::ones({8})}, targets), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, {weight, {}}, at::zeros({4}, at::kLong)), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, {weight, {}}, at::full({3}, 9, at::kLong)), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, {weight, {}}, at::full({3}, -1, at::kLong)), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, {weight, {}}, targets, {.label_smoothing = 2}), Error);
}

TEST(LinearCrossEntropy, ReportsTheModeThatItChooses) {
  EXPECT_EQ(choose_linear_cross_entropy_mode(32768, at::kFloat, {}), LinearCrossEntropyMode::kFast);
  EXPECT_EQ(choose_linear_cross_entropy_mode(1 << 24, at::kFloat, {}), LinearCrossEntropyMode::kSmall);
  EXPECT_EQ(choose_linear_cross_entropy_mode(64, at::kFloat, {.reduction = Reduction::kNone}),
            LinearCrossEntropyMode::kSmall);
  EXPECT_STREQ(mode_name(LinearCrossEntropyMode::kSmall), "small");
}

TEST(FilteredLinearCrossEntropy, ErrsByNoMoreThanItReports) {
  RandomStream random(11, "filter");
  // Confident predictions of few frequent ids: most of the vocabulary hardly gets any gradient.
  const std::int64_t size = 200, vocab_size = 9000, width = 64;
  at::Tensor weight = normal({vocab_size, width}, random);
  const at::Tensor targets = ids(size, 100, random);
  const at::Tensor hidden =
      weight.index_select(0, targets) + 0.1 * normal({size, width}, random);  // targets lie in the first tile
  const at::Tensor a = hidden.clone().requires_grad_(), b = weight.clone().requires_grad_();
  plain_linear_cross_entropy(a, {b, {}}, targets).backward();
  const at::Tensor c = hidden.clone().requires_grad_(), d = weight.clone().requires_grad_();
  const FilteredCrossEntropy filtered = filtered_linear_cross_entropy(c, {d, {}}, targets, 1e-9);
  filtered.loss.backward();
  EXPECT_GT(filtered.report.tiles_skipped, 0);
  EXPECT_LT(filtered.report.tiles_skipped, filtered.report.tiles_seen);
  const double norm = filtered.report.skipped_gradient_norm;
  EXPECT_GT(norm, 0);
  EXPECT_LE((c.grad() - a.grad()).norm().item<double>(), norm * weight.norm().item<double>());
  EXPECT_LE((d.grad() - b.grad()).norm().item<double>(), norm * hidden.norm().item<double>());
  EXPECT_GT((d.grad() - b.grad()).norm().item<double>(), 0);
}

/// Every tile is left out: what stands for it must be exact where the tile has rank one beside its targets' entries.
TEST(FilteredLinearCrossEntropy, IsExactWhereTokensAgree) {
  RandomStream random(21, "targets");
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16})
    for (const std::int64_t vocab_size : {2100, 9000}) {  // threads share the rows, threads share the vocabulary
      const at::Tensor hidden = normal({1, 24}, random).expand({300, 24}).to(type).contiguous().requires_grad_();
      const at::Tensor weight = (normal({vocab_size, 24}, random) * 0.1).to(type).requires_grad_();
      const at::Tensor targets = ids(300, vocab_size, random);
      const FilteredCrossEntropy filtered = filtered_linear_cross_entropy(hidden, {weight, {}}, targets, 1.0);
      filtered.loss.backward();
      EXPECT_EQ(filtered.report.tiles_skipped, filtered.report.tiles_seen);
      const at::Tensor h = hidden.detach().to(at::kDouble).requires_grad_();
      const at::Tensor w = weight.detach().to(at::kDouble).requires_grad_();
      plain_linear_cross_entropy(h, {w, {}}, targets).backward();
      const double tolerance = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 0.02;
      const auto error = [](const at::Tensor& got, const at::Tensor& want) {
        return ((got.to(at::kDouble) - want).norm() / want.norm()).item<double>();
      };
      EXPECT_LT(error(hidden.grad(), h.grad()), tolerance) << type;
      EXPECT_LT(error(weight.grad(), w.grad()), tolerance) << type;
      EXPECT_LT(filtered.report.skipped_gradient_norm, type == at::kDouble  ? 1e-9
                                                       : type == at::kFloat ? 1e-5
                                                                            : 1e-3)
          << type;
    }
}

TEST(FilteredLinearCrossEntropy, ReportsWhatIsMissingOfTilesThatItLeavesOut) {
  RandomStream random(22, "missing");
  const std::int64_t size = 100, vocab_size = 700;  // one tile
  const at::Tensor hidden = normal({size, 700}, random).requires_grad_();
  const at::Tensor weight = at::eye(vocab_size, at::kDouble).requires_grad_();  // so that dL/dH is G itself
  const at::Tensor targets = ids(size, vocab_size, random);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const FilteredCrossEntropy filtered = filtered_linear_cross_entropy(hidden, {weight, {}}, targets, 1.0);
  filtered.loss.backward();
  at::set_num_threads(threads);
  const at::Tensor index = targets.unsqueeze(1);
  const at::Tensor p = at::softmax(hidden.detach(), 1) / double(size);
  const at::Tensor entries = at::zeros_like(p).scatter(1, index, -1.0 / double(size));
  const at::Tensor rest = p;
  const at::Tensor stands_for_it = at::mm(rest.sum(1, true), rest.sum(0, true)) / rest.sum();
  EXPECT_TRUE(hidden.grad().allclose(entries + stands_for_it, 1e-10, 1e-14));
  EXPECT_NEAR(filtered.report.skipped_gradient_norm, (rest - stands_for_it).norm().item<double>(), 1e-12);
}

TEST(FilteredLinearCrossEntropy, FrequencyOrderPutsFrequentIdsFirstAndIsStable) {
  const at::Tensor counts = at::empty({4}, at::kLong);
  const std::int64_t values[] = {3, 9, 3, 5};
  std::copy_n(values, 4, counts.mutable_data_ptr<std::int64_t>());
  const at::Tensor order = frequency_order(counts);
  const std::int64_t expected[] = {1, 3, 0, 2};
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(order[rank].item<std::int64_t>(), expected[rank]);
}

TEST(TokenStatistics, AgreeWithTheirPlainComposition) {
  RandomStream random(12, "statistics");
  const std::int64_t shapes[][3] = {{1, 1, 1}, {7, 65, 3}, {300, 1500, 20}, {20, 9000, 65}};
  for (const auto& shape : shapes) {
    for (const double softcap : {0.0, 4.0}) {
      const at::Tensor hidden = normal({shape[0], shape[2]}, random), weight = normal({shape[1], shape[2]}, random);
      const LinearMap map{weight, normal({shape[1]}, random), 0.75, softcap};
      const at::Tensor targets = ids(shape[0], shape[1], random);
      const TokenStatistics fast = token_statistics(hidden, map, targets);
      const TokenStatistics plain = plain_token_statistics(hidden, map, targets);
      EXPECT_TRUE(fast.log_probability.allclose(plain.log_probability, 1e-10, 1e-12));
      EXPECT_TRUE(fast.logsumexp.allclose(plain.logsumexp, 1e-10, 1e-12));
      EXPECT_TRUE(fast.entropy.allclose(plain.entropy, 1e-9, 1e-11));
      EXPECT_TRUE(fast.correct.equal(plain.correct));
      EXPECT_TRUE(fast.logit_gradient_square.allclose(plain.logit_gradient_square, 1e-9, 1e-12));
      EXPECT_TRUE(fast.hidden_gradient.allclose(plain.hidden_gradient, 1e-9, 1e-11));
    }
  }
}

/// Statistics of counted rows are those of plain cross-entropy, others are zero.
void expect_statistics(const Problem& problem, const TokenStatistics& found, const std::string& what) {
  const at::Tensor kept = problem.targets.ne(problem.options.ignore_index);
  const at::Tensor rows = kept.nonzero().squeeze(1), others = kept.logical_not().nonzero().squeeze(1);
  const TokenStatistics plain = plain_token_statistics(problem.hidden.index_select(0, rows), problem.map(),
                                                       problem.targets.index_select(0, rows));
  for (auto column : kTokenStatistics) {
    ASSERT_TRUE((found.*column).defined()) << what;
    EXPECT_TRUE((found.*column).index_select(0, rows).allclose(plain.*column, 1e-9, 1e-10)) << what;
    EXPECT_FALSE((found.*column).index_select(0, others).any().item<bool>()) << what;
  }
}

TEST(LinearCrossEntropyWithStatistics, SaysOfEveryTokenWhatAPassOfItsOwnWould) {
  RandomStream random(14, "with statistics");
  for (int draw_number = 0; draw_number < 60; ++draw_number) {
    const Problem problem =
        draw(1 + static_cast<std::int64_t>(random.below(600)), 1 + static_cast<std::int64_t>(random.below(2500)),
             1 + static_cast<std::int64_t>(random.below(40)), at::kDouble, random);
    if (!problem.has_statistics()) continue;
    const std::string what = describe(problem, at::kDouble);
    TokenStatistics statistics;
    const auto both = [&](const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                          const LinearCrossEntropyOptions& options) {
      const auto result = linear_cross_entropy_with_statistics(hidden, map, targets, options);
      statistics = result.statistics;
      return result.loss;
    };
    const Outcome with = run(problem, at::kDouble, both), without = run(problem, at::kDouble, linear_cross_entropy);
    expect_statistics(problem, statistics, what);
    // Looking at a step must not change it.
    EXPECT_TRUE(with.same_bits(without)) << what;
    const at::AutoGradMode no_gradients(false);
    expect_statistics(
        problem,
        linear_cross_entropy_with_statistics(problem.hidden, problem.map(), problem.targets, problem.options)
            .statistics,
        what + ", no gradients");
    expect_statistics(
        problem,
        chunked_forward({problem.hidden, problem.targets, problem.map(), problem.options}, {}, WantedStatistics::kAll)
            .statistics,
        what + ", chunked");
  }
}

TEST(LinearCrossEntropyWithStatistics, ChangesNoBitOfALossInAnyType) {
  RandomStream random(15, "with statistics, types");
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const std::int64_t vocab_size : {1, 17, 1000, 1025, 9000}) {
      Problem problem = draw(300, vocab_size, 33, type, random);
      problem.options = {};
      if (problem.has_probabilities()) problem.targets = ids(300, vocab_size, random);
      problem.upstream = normal({}, random);
      const auto both = [&](const auto&... arguments) {
        return linear_cross_entropy_with_statistics(arguments...).loss;
      };
      EXPECT_TRUE(run(problem, type, both).same_bits(run(problem, type, linear_cross_entropy)))
          << describe(problem, type);
    }
}

TEST(LinearCrossEntropyWithStatistics, OfNoTokensAreEmpty) {
  const auto result = linear_cross_entropy_with_statistics(at::ones({0, 3}), {at::ones({5, 3}), {}},
                                                           at::zeros({0}, at::kLong), {.reduction = Reduction::kSum});
  EXPECT_EQ(result.statistics.log_probability.numel(), 0);
  EXPECT_EQ(result.statistics.hidden_gradient.sizes(), (at::IntArrayRef{0, 3}));
}

TEST(TokenStatistics, ATieCountsForTheFirstIndexOnly) {
  at::Tensor targets = at::zeros({2}, at::kLong);
  targets[1] = 1;
  const TokenStatistics statistics = token_statistics(at::ones({2, 3}), {at::zeros({5, 3}), {}}, targets);
  EXPECT_TRUE(statistics.correct[0].item<bool>());
  EXPECT_FALSE(statistics.correct[1].item<bool>());
}

}  // namespace
}  // namespace lmhead
