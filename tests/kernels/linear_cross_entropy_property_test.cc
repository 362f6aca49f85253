// linear_cross_entropy on problems drawn at random for some seconds, each judged against float64.
//
//   LMHEAD_PROPERTY_SECONDS  how long (default 5)
//   LMHEAD_PROPERTY_SEED     another seed draws other problems (default 1)
//   LMHEAD_PROPERTY_DRAW     the number of the first draw: what a failure prints, to begin with the failing one
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "tests/kernels/cross_entropy_problem.h"

namespace lmhead {
namespace {

using namespace test;

double from_environment(const char* name, double otherwise) {
  const char* given = std::getenv(name);
  return given ? std::atof(given) : otherwise;
}

struct Shape {
  std::int64_t size, vocab_size, width;
};
Shape draw_shape(RandomStream& random) {
  const auto up_to = [&](double largest) {  // small sizes as often as large ones
    return std::max<std::int64_t>(1, std::llround(std::exp(random.uniform() * std::log(largest))));
  };
  const auto near = [&](std::int64_t boundary) { return boundary - 1 + static_cast<std::int64_t>(random.below(3)); };
  const auto below = [&](std::uint64_t bound) { return static_cast<std::int64_t>(random.below(bound)); };
  switch (random.below(10)) {
    case 0:
      return {up_to(8), up_to(200'000), up_to(16)};
    case 1:
      return {below(3), 1 + below(3), 1 + below(3)};
    case 2:
      return {near(256 << below(2)), near(1024 << below(4)), up_to(20)};  // blocks, tiles, the way threads share
    case 3:
      return {up_to(600), near(64), near(16 << below(3))};
    default:
      return {up_to(600), up_to(5000), up_to(100)};
  }
}

/// Nothing to predict: the loss is what torch gives, and no gradient may be anything but zero.
void expect_nothing(const Problem& problem, const Outcome& fast) {
  const Outcome exact = run(problem, at::kDouble, plain_linear_cross_entropy);
  EXPECT_TRUE(fast.loss.to(at::kDouble).allclose(exact.loss, 0, 0, /*equal_nan=*/true)) << fast.loss;
  for (const at::Tensor& gradient : {fast.hidden, fast.weight, fast.bias})
    if (gradient.defined()) {
      EXPECT_TRUE(gradient.eq(0).all().item<bool>());
    }
}

/// The filter's loss is exact, and its gradients err by no more than it reports beyond what rounding explains.
void expect_bounded_filter(const Problem& problem, at::ScalarType type, double threshold, const Outcome& plain,
                           const Outcome& exact, const Scales& scales, const std::string& what) {
  FilterReport report;
  const Outcome filtered =
      run(problem, type, [&](const auto& hidden, const auto& map, const auto& targets, const auto& options) {
        FilteredCrossEntropy result = filtered_linear_cross_entropy(hidden, map, targets, threshold, options);
        report = result.report;
        return result.loss;
      });
  EXPECT_LE(report.tiles_skipped, report.tiles_seen) << what;
  const double skipped = report.skipped_gradient_norm * std::abs(problem.upstream.item<double>()) * (1 + 1e-3);
  const double weight_norm = problem.weight.norm().item<double>(), hidden_norm = problem.hidden.norm().item<double>();
  const double allowed = skipped * (weight_norm + hidden_norm), long_sums = type == at::kDouble ? scales.long_sums : 1;
  expect_as_good_as_plain(filtered.loss, plain.loss, exact.loss, type, scales.loss, what + ": filtered loss");
  expect_as_good_as_plain(filtered.bias, plain.bias, exact.bias, type, scales.bias, what + ": filtered d_bias");
  expect_as_good_as_plain(filtered.hidden, plain.hidden, exact.hidden, type, scales.hidden * long_sums,
                          what + ": filtered d_hidden", skipped * weight_norm);
  expect_as_good_as_plain(filtered.weight, plain.weight, exact.weight, type, scales.weight,
                          what + ": filtered d_weight", problem.inputs.defined() ? allowed : skipped * hidden_norm);
}

void check(const Problem& problem, at::ScalarType type, RandomStream& random, const std::string& what) {
  const Outcome fast = run(problem, type, linear_cross_entropy);
  if (problem.counts_nothing()) return expect_nothing(problem, fast);
  const Outcome plain = run(problem, type, plain_linear_cross_entropy);
  const Outcome exact = run(problem, at::kDouble, plain_linear_cross_entropy);
  const Scales scales = scales_of(problem);
  judge(fast, plain, exact, scales, type, what);
  if (random.below(5) == 0) {
    EXPECT_TRUE(fast.same_bits(run(problem, type, linear_cross_entropy))) << what << ": same threads, other bits";
    const int threads = at::get_num_threads();
    at::set_num_threads(threads == 1 ? 2 : 1);
    const Outcome other = run(problem, type, linear_cross_entropy);
    at::set_num_threads(threads);
    judge(other, plain, exact, scales, type, what + ", other thread count");
  }
  if (random.below(4) == 0 && problem.options.reduction != Reduction::kNone && !problem.has_probabilities())
    expect_bounded_filter(problem, type, std::pow(10, -6 * random.uniform()), plain, exact, scales, what);
}

TEST(LinearCrossEntropyProperty, ErrsAtMostTwiceAsMuchAsPlainWhateverTheShapeAndOptions) {
  const double seconds = from_environment("LMHEAD_PROPERTY_SECONDS", 5);
  const auto seed = static_cast<std::uint64_t>(from_environment("LMHEAD_PROPERTY_SEED", 1));
  auto number = static_cast<std::uint64_t>(from_environment("LMHEAD_PROPERTY_DRAW", 0));
  const std::uint64_t first = number;
  const auto start = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  for (; passed() < seconds && !HasFailure(); ++number) {
    RandomStream random(seed, "property", number);
    const at::ScalarType types[] = {at::kFloat, at::kDouble, at::kBFloat16};
    const at::ScalarType type = types[random.below(3)];
    const Shape shape = draw_shape(random);
    Problem problem = draw(shape.size, shape.vocab_size, shape.width, type, random);
    make_extreme(problem, type, random);
    std::ostringstream what;
    what << "LMHEAD_PROPERTY_SEED=" << seed << " LMHEAD_PROPERTY_DRAW=" << number << ": " << describe(problem, type);
    SCOPED_TRACE(what.str());
    check(problem, type, random, what.str());
  }
  EXPECT_GT(number - first, 0);
  RecordProperty("draws", std::to_string(number - first));
}

}  // namespace
}  // namespace lmhead
