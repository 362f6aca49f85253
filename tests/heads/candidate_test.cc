// What a step of the candidate head draws, and what becomes of it when that is everything.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "lmhead/heads/candidate_words.h"
#include "tests/data/data_fixtures.h"
#include "tests/heads/head_bench.h"

namespace lmhead {
namespace {

TEST(CandidateWords, AreDifferentAndEachAsLikely) {
  constexpr std::int64_t kWords = 23, kDrawn = 7, kSteps = 3000;
  for (const bool strides : {false, true}) {
    std::vector<double> often(kWords);
    for (std::int64_t step = 1; step <= kSteps; ++step) {
      const auto words = draw_words({1, step, kSteps, 0}, kWords, kDrawn, strides);
      EXPECT_EQ(std::set(words.begin(), words.end()).size(), std::size_t(kDrawn));
      for (const std::int64_t word : words) ++often[std::size_t(word)];
    }
    const double share = double(kDrawn) / kWords, deviation = std::sqrt(share * (1 - share) / kSteps);
    for (const double count : often) EXPECT_NEAR(count / kSteps, share, 4.5 * deviation) << strides;
  }
  EXPECT_TRUE(draw_words({1, 1, 9, 0}, 5, 0, true).empty());
  EXPECT_EQ(draw_words({1, 1, 9, 0}, 5, 5, true), (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
}

TEST(CandidateWords, AreTheTargetsAndWhatWasDrawn) {
  const Candidates candidates = candidates_of(at::tensor({7, 2, 7}, at::kLong), {5, 2, 0}, 9);
  EXPECT_TRUE(candidates.ids.equal(at::tensor({0, 2, 5, 7}, at::kLong)));
  EXPECT_TRUE(candidates.targets.equal(at::tensor({3, 1, 3}, at::kLong)));
  EXPECT_TRUE(candidates.drawn.equal(at::tensor({1, 0, 1, 0}).to(at::kBool)));
  EXPECT_ERROR(candidates_of(at::tensor({9}, at::kLong), {}, 9), "targets must be ids below 9, got 9");
}

TEST(CandidateHead, WithAllWordsIsTheLinearHeadBitForBit) {
  const Shape shape = {40, 65, 12};
  Bench linear("linear", {Json::object()}, shape);
  linear.require_gradients();
  const at::Tensor want = linear.head->loss(linear.input(), linear.targets);
  want.backward();
  for (const Json& options : {Json{{"full_share", 1.0}}, Json{{"drawn", {{"start", 1.0}, {"end", 1.0}}}},
                              Json{{"full_share", 0.8}}}) {  // of 10 steps the last 8, and this is the third
    SCOPED_TRACE(options.dump());
    Bench all("candidate", {options}, shape);
    all.require_gradients();
    const TrainingLoss got = all.head->training_loss(all.input(), all.targets);
    EXPECT_TRUE(got.loss.equal(want));
    EXPECT_EQ(got.figures[0].second, 65);
    got.loss.backward();
    EXPECT_TRUE(all.hidden.grad().equal(linear.hidden.grad()));
    EXPECT_TRUE(all.all[0]->value.grad().equal(linear.all[0]->value.grad()));
  }
}

TEST(CandidateHead, CorrectedSumsOfExponentialsAreRightInTheMean) {
  // Over many steps the mean of exp(lse) less the targets' own part is that of the whole vocabulary.
  Bench bench("candidate", {{{"drawn", {{"start", 0.3}, {"end", 0.3}}}}}, {1, 40, 6});
  const at::Tensor z = bench.reference()[0];
  const double whole = z.exp().sum().item<double>(), target = z[bench.targets[0].item<std::int64_t>()].item<double>();
  double sum = 0, square = 0;
  constexpr int kSteps = 4000;
  bench.step.steps = 10 * kSteps;
  for (int step = 1; step <= kSteps; ++step) {
    bench.step.step = step;
    const double found = std::exp(bench.head->loss(bench.input(), bench.targets).item<double>() + target);
    sum += found;
    square += found * found;
  }
  const double mean = sum / kSteps, error = std::sqrt((square / kSteps - mean * mean) / kSteps);
  EXPECT_NEAR(mean, whole, 4.5 * error);
}

TEST(CandidateHead, DrawsMoreInStagesAndEverythingAtTheEnd) {
  Bench bench("candidate", {{{"drawn", {{"start", 0.1}, {"end", 0.4}}}, {"full_share", 0.1}}}, {1, 1000, 2});
  bench.step.steps = 100;
  const auto candidates = [&](std::int64_t step) {
    bench.step.step = step;
    return bench.head->training_loss(bench.input(), bench.targets).figures[0].second;
  };
  for (const auto& [step, drawn] : {std::pair{1, 100}, {25, 100}, {26, 200}, {51, 300}, {76, 400}, {90, 400}})
    EXPECT_NEAR(candidates(step), drawn, 1) << step;  // the target may be drawn
  EXPECT_EQ(candidates(91), 1000);
  EXPECT_EQ(candidates(100), 1000);
}

TEST(CandidateHead, BadSettingsAreRefused) {
  const HeadContext context{.hidden_size = 4, .vocab_size = 9, .source = fresh_parameters(0), .initializer_range = 1};
  const auto make = [&](const Json& json) { specification_of("candidate", {json}).make(context); };
  EXPECT_ERROR(make({{"drawn", {{"start", 1.5}}}}), "[candidate] drawn.start must be between 0 and 1, got 1.5");
  EXPECT_ERROR(make({{"drawn", {{"end", -0.5}}}}), "[candidate] drawn.end must be between 0 and 1, got -0.5");
  EXPECT_ERROR(make({{"full_share", 2}}), "full_share must be");
  EXPECT_ERROR(make({{"negatives", "all"}}), "negatives must be one of");
}

}  // namespace
}  // namespace lmhead
