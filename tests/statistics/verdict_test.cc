// The rule that turns intervals into words, case by case.
#include "lmhead/statistics/verdict.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lmhead {
namespace {

PairedStatistics with_holm(const std::vector<double>& differences, double comparisons = 1) {
  PairedStatistics statistics = paired_statistics(differences);
  if (statistics.p_value) statistics.holm_p = std::min(1.0, *statistics.p_value * comparisons);
  return statistics;
}

const std::vector<double> kWorse = {0.06, 0.07, 0.05, 0.065, 0.055};
const std::vector<double> kNear = {0.002, -0.001, 0.001, -0.002, 0.0015};
const std::vector<double> kNoisy = {0.1, -0.08, 0.12, -0.05, 0.04};

TEST(Verdict, IsHarmOrGainByTheOrientation) {
  EXPECT_EQ(decide(with_holm(kWorse), {}).finding, Finding::kHarm);
  EXPECT_EQ(decide(with_holm(kWorse), {.higher_is_better = true}).finding, Finding::kGain);
  EXPECT_EQ(decide(with_holm(kWorse), {}).words, "harm shown: +0.0600 [0.0502, 0.0698]");
}

TEST(Verdict, NeedsHolmsCorrectionToAgree) {
  EXPECT_EQ(decide(with_holm({0.05, 0.02, 0.06, 0.01, 0.05}), {}).finding, Finding::kHarm);
  const Verdict verdict = decide(with_holm({0.05, 0.02, 0.06, 0.01, 0.05}, 20), {});
  EXPECT_EQ(verdict.finding, Finding::kUndecided);
  EXPECT_GT(*verdict.more_seeds, 0);
}

TEST(Verdict, CallsAGainThatHolmRefusesNoHarm) {
  const Verdict verdict = decide(with_holm({-0.05, -0.02, -0.06, -0.01, -0.05}, 20), {.margin = 0.02});
  EXPECT_EQ(verdict.finding, Finding::kNoHarm);
  EXPECT_EQ(verdict.words, "no harm shown, nor a gain after Holm's correction");
}

TEST(Verdict, BoundsTheHarmWhereTheIntervalEndsBelowTheMargin) {
  const Verdict verdict = decide(with_holm(kNear), {.margin = 0.02});
  EXPECT_EQ(verdict.finding, Finding::kNoHarm);
  EXPECT_EQ(verdict.words, "no harm larger than 0.0024 shown");
  EXPECT_EQ(decide(with_holm({0, 0, 0}), {.margin = 0.02}).words, "no harm larger than 0.0000 shown");
  EXPECT_EQ(decide(with_holm(kNear), {}).finding, Finding::kUndecided);
  EXPECT_EQ(decide(with_holm(kNear), {.margin = 0.001}).finding, Finding::kUndecided);
}

TEST(Verdict, CountsTheSeedsThatWouldDecide) {
  const Verdict verdict = decide(with_holm(kNoisy), {.margin = 0.1});
  EXPECT_EQ(verdict.finding, Finding::kUndecided);
  const auto n = std::int64_t(kNoisy.size()) + *verdict.more_seeds;
  const double harm = mean(kNoisy), deviation = standard_deviation(kNoisy);
  const auto decided = [&](std::int64_t seeds) {
    const double half = student_t_quantile(0.975, double(seeds - 1)) * deviation / std::sqrt(double(seeds));
    return half < harm || harm + half < 0.1;
  };
  EXPECT_TRUE(decided(n));
  EXPECT_FALSE(decided(n - 1));
  EXPECT_FALSE(decide(with_holm({1, -1, 1, -1}), {}).more_seeds.has_value());
}

TEST(Verdict, OfOneSeedIsThatThereIsNone) {
  EXPECT_EQ(decide(with_holm({0.5}), {.margin = 1}).words, "undecided: a second seed is needed");
}

TEST(Source, IsComparedBySignAndInterval) {
  const PairedStatistics worse = with_holm(kWorse), noisy = with_holm(kNoisy);
  EXPECT_EQ(compare_with_source(worse, 0.0634, Interval{0.0413, 0.0856}),
            "agrees with the source's sign; the source's value lies in our interval, the intervals overlap");
  EXPECT_EQ(compare_with_source(worse, -0.1, Interval{-0.2, 0}),
            "contradicts the source's sign; the source's value lies outside our interval, the intervals are apart");
  EXPECT_EQ(compare_with_source(noisy, 0.0634, std::nullopt),
            "does not decide the source's sign; the source's value lies in our interval");
  EXPECT_EQ(compare_with_sign(worse, '+', {}), "agrees with the expected sign");
  EXPECT_EQ(compare_with_sign(worse, '-', {}), "contradicts the expected sign");
  EXPECT_EQ(compare_with_sign(noisy, '-', {}), "does not decide the expected sign");
  EXPECT_EQ(compare_with_sign(with_holm(kNear), '0', 0.02),
            "agrees with the source: no difference as large as the margin");
  EXPECT_EQ(compare_with_sign(worse, '0', 0.02), "contradicts the source: zero lies outside our interval");
}

}  // namespace
}  // namespace lmhead
