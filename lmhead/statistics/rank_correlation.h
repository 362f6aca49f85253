// Rank correlations, plain and with other values held fixed, in float64. Formulae: docs/statistics.md,
// "Correlations".
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "lmhead/statistics/statistics.h"

namespace lmhead {

/// What a partial correlation holds fixed; every list has a value for each pair.
struct HeldFixed {
  std::vector<std::vector<double>> given;        // numbers, of which the ranks count
  std::vector<std::vector<std::size_t>> within;  // categories, each of which may shift both sides as it likes
};

/// Spearman's rank correlation, ties at their average rank; NaN where one side is constant or n < 2.
double spearman_correlation(const std::vector<double>& left, const std::vector<double>& right);
/// Bootstrap interval over pairs; resamples in which one side is constant count as 0.
std::optional<Interval> spearman_interval(const std::vector<double>& left, const std::vector<double>& right);

struct PartialCorrelation {
  double rho;                 // NaN where nothing of one side is left
  double degrees_of_freedom;  // pairs - 1 - rank of what was fitted, its constant included
};

/// The correlation of what is left of the ranks of both sides after a least-squares fit of a constant, the
/// ranks of `given` and an indicator of every category of `within`.
PartialCorrelation partial_spearman(const std::vector<double>& left, const std::vector<double>& right,
                                    const HeldFixed& held);
/// Bootstrap interval over pairs, of which each resample is ranked and fitted anew; resamples in which
/// nothing is left of one side count as 0.
std::optional<Interval> partial_spearman_interval(const std::vector<double>& left, const std::vector<double>& right,
                                                  const HeldFixed& held);

/// Two-sided p of no correlation by Student's t, but at least 2 / (degrees of freedom + 2)!: with n pairs and
/// nothing fitted, chance puts two of the n! orders in perfect agreement. Nothing without a degree of freedom
/// or a correlation.
std::optional<double> correlation_test(const PartialCorrelation& correlation);

}  // namespace lmhead
