#include "lmhead/statistics/statistics.h"

#include <algorithm>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "lmhead/base/random.h"

namespace lmhead {
namespace {

constexpr int kResamples = 10000;
constexpr std::size_t kExactResampled = 5;  // 3125 resamples: fewer than the random ones, and no chance in them
constexpr std::size_t kExactSigns = 20;
constexpr int kRandomSigns = 100000;

/// Linear interpolation between order statistics, as NumPy's default.
double quantile_of_sorted(const std::vector<double>& sorted, double probability) {
  const double place = std::clamp(probability, 0.0, 1.0) * double(sorted.size() - 1);
  const auto below = std::size_t(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - double(below)) * (sorted[above] - sorted[below]);
}

using Statistic = std::function<double(const std::vector<std::size_t>&)>;

/// Of every choice of n out of n items with replacement: n^n of them.
std::vector<double> all_resamples(std::size_t n, const Statistic& statistic) {
  std::vector<double> values;
  std::vector<std::size_t> indices(n, 0);
  while (true) {
    values.push_back(statistic(indices));
    std::size_t place = 0;
    while (place < n && ++indices[place] == n) indices[place++] = 0;
    if (place == n) return values;
  }
}

std::vector<double> random_resamples(std::size_t n, const Statistic& statistic, std::string_view name) {
  RandomStream stream(0, "statistics.bootstrap." + std::string(name));
  std::vector<double> values(kResamples);
  std::vector<std::size_t> indices(n);
  for (double& value : values) {
    for (std::size_t& index : indices) index = std::size_t(stream.below(n));
    value = statistic(indices);
  }
  return values;
}

/// Skewness of the jackknife values: the bootstrap's acceleration.
double acceleration_of(std::size_t n, const std::function<double(const std::vector<std::size_t>&)>& statistic) {
  std::vector<double> left_out;
  for (std::size_t out = 0; out < n; ++out) {
    std::vector<std::size_t> indices;
    for (std::size_t index = 0; index < n; ++index)
      if (index != out) indices.push_back(index);
    left_out.push_back(statistic(indices));
  }
  const double center = mean(left_out);
  double squares = 0, cubes = 0;
  for (const double value : left_out) {
    squares += std::pow(center - value, 2);
    cubes += std::pow(center - value, 3);
  }
  return cubes / (6 * std::pow(squares, 1.5));
}

}  // namespace

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
}

double standard_deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double center = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - center) * (value - center);
  return std::sqrt(squares / double(values.size() - 1));
}

double student_t_quantile(double probability, double degrees_of_freedom) {
  return boost::math::quantile(boost::math::students_t(degrees_of_freedom), probability);
}

double student_t_two_sided(double t, double degrees_of_freedom) {
  return 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(degrees_of_freedom), std::abs(t)));
}

std::optional<Interval> t_interval(const std::vector<double>& values, double confidence) {
  if (values.size() < 2) return std::nullopt;
  const auto n = double(values.size());
  const double half = student_t_quantile((1 + confidence) / 2, n - 1) * standard_deviation(values) / std::sqrt(n);
  return Interval{mean(values) - half, mean(values) + half};
}

std::optional<double> t_test(const std::vector<double>& values) {
  if (values.size() < 2) return std::nullopt;
  const double deviation = standard_deviation(values), center = mean(values);
  if (deviation == 0) return center == 0 ? 1 : 0;
  const auto n = double(values.size());
  return student_t_two_sided(center / (deviation / std::sqrt(n)), n - 1);
}

double sign_flip_test(const std::vector<double>& values) {
  const double observed = std::abs(std::accumulate(values.begin(), values.end(), 0.0));
  const double scale =
      std::accumulate(values.begin(), values.end(), 0.0, [](double sum, double v) { return sum + std::abs(v); });
  const double at_least = observed - 1e-12 * scale;  // sums of equal terms in another order differ in the last bits
  const auto sum_with = [&](auto&& flipped) {
    double sum = 0;
    for (std::size_t index = 0; index < values.size(); ++index) sum += flipped(index) ? -values[index] : values[index];
    return std::abs(sum);
  };
  if (values.size() <= kExactSigns) {
    const std::uint32_t choices = std::uint32_t(1) << values.size();
    std::uint32_t extreme = 0;
    for (std::uint32_t choice = 0; choice < choices; ++choice)
      extreme += sum_with([&](std::size_t index) { return choice >> index & 1; }) >= at_least;
    return double(extreme) / double(choices);
  }
  RandomStream stream(0, "statistics.sign_flips");
  int extreme = 1;
  for (int draw = 0; draw < kRandomSigns; ++draw)
    extreme += sum_with([&](std::size_t) { return stream.next_u32() >> 31; }) >= at_least;
  return double(extreme) / (kRandomSigns + 1);
}

std::optional<double> paired_effect_size(const std::vector<double>& values) {
  const double deviation = standard_deviation(values);
  if (values.size() < 3 || deviation == 0) return std::nullopt;
  const double freedom = double(values.size()) - 1;
  // J = Gamma(m / 2) / (sqrt(m / 2) Gamma((m - 1) / 2)); at m = 1 the second Gamma is infinite and g always 0.
  const double correction =
      std::exp(std::lgamma(freedom / 2) - std::lgamma((freedom - 1) / 2)) / std::sqrt(freedom / 2);
  return correction * mean(values) / deviation;
}

std::vector<double> holm_adjusted(const std::vector<double>& p_values) {
  std::vector<std::size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;
  for (std::size_t place = 0; place < order.size(); ++place) {
    largest = std::max(largest, std::min(1.0, double(order.size() - place) * p_values[order[place]]));
    adjusted[order[place]] = largest;
  }
  return adjusted;
}

std::optional<Interval> bootstrap_interval(std::size_t n,
                                           const std::function<double(const std::vector<std::size_t>&)>& statistic,
                                           std::string_view name, double confidence) {
  if (n < 2) return std::nullopt;
  std::vector<std::size_t> indices(n);
  std::iota(indices.begin(), indices.end(), 0u);
  const double observed = statistic(indices);
  std::vector<double> resampled =
      n <= kExactResampled ? all_resamples(n, statistic) : random_resamples(n, statistic, name);
  std::sort(resampled.begin(), resampled.end());
  const double low = (1 - confidence) / 2, high = 1 - low;
  // Half of the ties count as below, as in SciPy; the same items in another order differ in the last bits.
  const double tie = 1e-12 * std::max(std::abs(resampled.front()), std::abs(resampled.back()));
  const auto begin = resampled.begin(), end = resampled.end();
  const auto below = double(std::lower_bound(begin, end, observed - tie) - begin);
  const auto not_above = double(std::upper_bound(begin, end, observed + tie) - begin);
  const double share = (below + not_above) / 2 / double(resampled.size());
  const double acceleration = acceleration_of(n, statistic);
  if (share <= 0 || share >= 1 || !std::isfinite(acceleration))
    return Interval{quantile_of_sorted(resampled, low), quantile_of_sorted(resampled, high)};
  const boost::math::normal normal;
  const double bias = boost::math::quantile(normal, share);
  const auto corrected = [&](double probability) {
    const double z = bias + boost::math::quantile(normal, probability);
    return boost::math::cdf(normal, bias + z / (1 - acceleration * z));
  };
  return Interval{quantile_of_sorted(resampled, corrected(low)), quantile_of_sorted(resampled, corrected(high))};
}

std::optional<Interval> bootstrap_mean_interval(const std::vector<double>& values) {
  return bootstrap_interval(values.size(), [&](const std::vector<std::size_t>& indices) {
    double sum = 0;
    for (const std::size_t index : indices) sum += values[index];
    return sum / double(indices.size());
  });
}

}  // namespace lmhead
