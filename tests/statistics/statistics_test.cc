// Closed forms and edges of the statistics; tests/python/test_statistics.py compares them with SciPy.
#include "lmhead/statistics/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lmhead/statistics/rank_correlation.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

TEST(StudentT, OfOneDegreeOfFreedomIsCauchys) {
  for (const double probability : {0.6, 0.9, 0.975})
    EXPECT_NEAR(student_t_quantile(probability, 1), std::tan(M_PI * (probability - 0.5)), 1e-9);
  EXPECT_NEAR(student_t_two_sided(1, 1), 0.5, 1e-12);
}

TEST(Statistics, OfEqualValuesAreTheirLimits) {
  const std::vector<double> zeros(5, 0.0), ones(5, 1.0);
  EXPECT_EQ(t_test(zeros), 1);
  EXPECT_EQ(t_test(ones), 0);
  EXPECT_EQ(t_interval(ones)->low, 1);
  EXPECT_EQ(bootstrap_mean_interval(ones)->high, 1);
  EXPECT_FALSE(paired_effect_size(ones).has_value());
  EXPECT_EQ(sign_flip_test(zeros), 1);
  EXPECT_EQ(sign_flip_test(ones), 2.0 / 32);
}

TEST(Statistics, OfOneValueSayNothing) {
  EXPECT_FALSE(t_interval({1}).has_value());
  EXPECT_FALSE(t_test({1}).has_value());
  EXPECT_FALSE(bootstrap_mean_interval({1}).has_value());
  EXPECT_FALSE(paired_effect_size({1}).has_value());
  EXPECT_FALSE(paired_effect_size({1, 2}).has_value());  // its correction for small n is 0
  EXPECT_EQ(standard_deviation({1}), 0);
}

TEST(Statistics, DrawTheSameResamplesEveryTime) {
  const std::vector<double> values = {0.1, 0.4, 0.2, 0.9, 0.3};
  EXPECT_EQ(bootstrap_mean_interval(values)->low, bootstrap_mean_interval(values)->low);
  const Interval interval = *bootstrap_mean_interval(values);
  EXPECT_LT(interval.low, mean(values));
  EXPECT_GT(interval.high, mean(values));
}

TEST(Holm, NeverLetsALargerValueOvertake) {
  EXPECT_EQ(holm_adjusted({0.01, 0.02, 0.02}), (std::vector<double>{0.03, 0.04, 0.04}));
  EXPECT_EQ(holm_adjusted({0.5, 0.6}), (std::vector<double>{1, 1}));
  EXPECT_TRUE(holm_adjusted({}).empty());
}

TEST(Spearman, SeesOrderAlone) {
  EXPECT_NEAR(spearman_correlation({1, 2, 3, 4}, {1, 10, 100, 1000}), 1, 1e-15);
  EXPECT_NEAR(spearman_correlation({1, 2, 3}, {3, 2, 1}), -1, 1e-15);
  EXPECT_TRUE(std::isnan(spearman_correlation({1, 1, 1}, {1, 2, 3})));
}

TEST(PartialSpearman, SeesNothingThroughWhatIsHeldFixed) {
  const std::vector<double> rate = {1, 1, 2, 2, 4, 4};
  const std::vector<double> left = {1, 2, 3, 4, 5, 6}, right = {20, 10, 40, 30, 60, 50};
  EXPECT_GT(spearman_correlation(left, right), 0.8);  // both follow the rate
  const HeldFixed by_rank{{rate}, {}}, by_value{{}, {{0, 0, 1, 1, 2, 2}}};
  const PartialCorrelation ranked = partial_spearman(left, right, by_rank);
  EXPECT_NEAR(ranked.rho, -1, 1e-12);  // and at equal rates they oppose each other
  EXPECT_EQ(ranked.degrees_of_freedom, 6 - 1 - 2);
  EXPECT_NEAR(partial_spearman(left, right, by_value).rho, -1, 1e-12);
  EXPECT_EQ(partial_spearman(left, right, by_value).degrees_of_freedom, 6 - 1 - 3);
  const HeldFixed everything{{rate, left}, {{0, 0, 1, 1, 2, 2}, {0, 1, 0, 1, 0, 1}}};
  EXPECT_TRUE(std::isnan(partial_spearman(left, right, everything).rho));
  EXPECT_FALSE(correlation_test(partial_spearman(left, right, everything)).has_value());
  EXPECT_NEAR(correlation_test(ranked).value(), 2.0 / 120, 1e-12);  // a perfect agreement of few is no certainty
  EXPECT_ERROR(partial_spearman(left, {1, 2}, {}), "as many values");
}

TEST(PartialSpearman, TakesACategoryForAnyShape) {
  // Both are least at the middle rate, which its ranks cannot say; at equal rates they oppose each other.
  const std::vector<double> rate = {1, 1, 2, 2, 3, 3};
  const std::vector<double> left = {3, 4, 1, 2, 5, 6}, right = {40, 30, 20, 10, 60, 50};
  EXPECT_GT(partial_spearman(left, right, {{rate}, {}}).rho, 0.5);
  EXPECT_NEAR(partial_spearman(left, right, {{}, {{0, 0, 1, 1, 2, 2}}}).rho, -1, 1e-12);
}

}  // namespace
}  // namespace lmhead
