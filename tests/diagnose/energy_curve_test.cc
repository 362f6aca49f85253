#include "lmhead/diagnose/energy_curve.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace lmhead {
namespace {

/// Shares of the energy in the best k of `energies`, from k = 0.
std::vector<double> shares_of(const std::vector<double>& energies) {
  std::vector<double> sums = {0};
  for (const double energy : energies) sums.push_back(sums.back() + energy);
  for (double& sum : sums) sum /= std::accumulate(energies.begin(), energies.end(), 0.0);
  return sums;
}

TEST(EnergyCurve, KnowsEverythingOfAllEigenvalues) {
  const std::vector<double> energies = {5, 3, 1, 0.5, 0.5};
  const EnergyCurve curve(energies, 10, 5);
  const std::vector<double> shares = shares_of(energies);
  for (std::int64_t k = 0; k <= 7; ++k) {
    EXPECT_DOUBLE_EQ(curve.best(k).low, shares[std::min<std::int64_t>(k, 5)]) << k;
    EXPECT_DOUBLE_EQ(curve.best(k).high, shares[std::min<std::int64_t>(k, 5)]) << k;
  }
  EXPECT_EQ(curve.unresolved(), 0);
  EXPECT_EQ(curve.components(0.5).low, 1);
  EXPECT_EQ(curve.components(0.5).high, 1);
  EXPECT_EQ(curve.components(0.51).high, 2);
  EXPECT_EQ(curve.components(1).high, 5);
}

// Every smaller spectrum with the true trace must give bounds around the true curve.
TEST(EnergyCurve, BracketsTheTrueCurveWhateverTheSketchMissed) {
  std::vector<double> truth;
  for (int index = 1; index <= 40; ++index) truth.push_back(1.0 / index);
  const double total = std::accumulate(truth.begin(), truth.end(), 0.0);
  const std::vector<double> shares = shares_of(truth);
  for (const std::size_t count : {1, 2, 7, 20, 40})
    for (const double loss : {0.0, 0.1, 0.9}) {
      std::vector<double> found(truth.begin(), truth.begin() + std::ptrdiff_t(count));
      for (std::size_t index = 0; index < count; ++index) found[index] *= 1 - loss * double(index + 1) / double(count);
      const EnergyCurve curve(found, total, 40);
      for (std::int64_t k = 1; k <= 40; ++k) {
        EXPECT_LE(curve.best(k).low, shares[k] + 1e-12);
        EXPECT_GE(curve.best(k).high, shares[k] - 1e-12);
        EXPECT_LE(curve.best(k).high - curve.best(k).low, curve.unresolved() + 1e-12);
      }
      for (const double share : {0.25, 0.5, 0.9, 0.999}) {
        std::int64_t exact = 1;
        while (shares[exact] < share) ++exact;
        EXPECT_LE(curve.components(share).low, exact);
        EXPECT_GE(curve.components(share).high, exact);
        EXPECT_LE(curve.components(share).high, 40);
      }
    }
}

TEST(EnergyCurve, NothingFoundStillLeavesTheStraightLine) {
  const EnergyCurve curve({}, 2, 10);  // the curve is concave, so it is nowhere below this
  EXPECT_DOUBLE_EQ(curve.best(3).low, 0.3);
  EXPECT_DOUBLE_EQ(curve.best(3).high, 1);
  EXPECT_EQ(curve.components(0.5).low, 1);
  EXPECT_EQ(curve.components(0.5).high, 5);
}

TEST(EnergyCurve, NoEnergyIsNoNumber) {
  const EnergyCurve curve({0, 0}, 0, 2);
  EXPECT_TRUE(std::isnan(curve.best(1).low));
  EXPECT_TRUE(std::isnan(curve.unresolved()));
}

}  // namespace
}  // namespace lmhead
