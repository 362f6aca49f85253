// Statistics of small paired samples, in float64. Formulae and names: docs/statistics.md.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace lmhead {

struct Interval {
  double low, high;
};

double mean(const std::vector<double>& values);
/// With n - 1; 0 for fewer than two values.
double standard_deviation(const std::vector<double>& values);

/// Quantile of Student's t.
double student_t_quantile(double probability, double degrees_of_freedom);
/// P(|T| >= |t|).
double student_t_two_sided(double t, double degrees_of_freedom);

/// mean +- t * s / sqrt(n); nothing for fewer than two values.
std::optional<Interval> t_interval(const std::vector<double>& values, double confidence = 0.95);
/// Two-sided p of a mean of zero by Student's t; nothing for fewer than two values. Where all values are
/// equal: 1 for zeros, else 0.
std::optional<double> t_test(const std::vector<double>& values);
/// Two-sided p of symmetry around zero: the share of all 2^n choices of signs whose sum is at least as far
/// from zero (Fisher's randomisation test), exact up to 20 values, above that from 100,000 random choices,
/// the observed one counted.
double sign_flip_test(const std::vector<double>& values);
/// mean / s, Cohen's d of paired differences, times Hedges' exact correction for small n; nothing where s = 0
/// or n < 3.
std::optional<double> paired_effect_size(const std::vector<double>& values);

/// Holm's step-down adjusted p values, in the order given.
std::vector<double> holm_adjusted(const std::vector<double>& p_values);

/// Bias-corrected and accelerated bootstrap interval (Efron 1987) of a statistic of n items: `statistic` gets
/// the items' indices. All n^n resamples up to 5 items, above that 10,000 from the stream
/// "statistics.bootstrap." + `name` of seed 0. The percentile interval where the correction is not defined
/// (all resamples on one side, or a jackknife without spread); nothing for n < 2.
std::optional<Interval> bootstrap_interval(std::size_t n,
                                           const std::function<double(const std::vector<std::size_t>&)>& statistic,
                                           std::string_view name = "mean", double confidence = 0.95);
/// The same of the mean.
std::optional<Interval> bootstrap_mean_interval(const std::vector<double>& values);

}  // namespace lmhead
