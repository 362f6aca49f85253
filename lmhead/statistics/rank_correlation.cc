#include "lmhead/statistics/rank_correlation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr double kNothingLeft = 1e-20;  // of a squared norm: rounding

std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && values[order[end]] == values[order[first]]) ++end;
    for (std::size_t place = first; place < end; ++place) ranks[order[place]] = double(first + end - 1) / 2 + 1;
    first = end;
  }
  return ranks;
}

double product(const std::vector<double>& left, const std::vector<double>& right) {
  return std::inner_product(left.begin(), left.end(), right.begin(), 0.0);
}

/// An orthonormal basis of the columns that were added.
class Fit {
 public:
  void add(std::vector<double> column) {
    const double before = product(column, column);
    remove_from(column);
    const double left = product(column, column);
    if (!(left > kNothingLeft * before)) return;
    for (double& value : column) value /= std::sqrt(left);
    basis_.push_back(std::move(column));
  }
  /// Leaves the least-squares residual. A second round takes out what rounding left in the first.
  void remove_from(std::vector<double>& values) const {
    for (int round = 0; round < 2; ++round)
      for (const auto& direction : basis_) {
        const double share = product(direction, values);
        for (std::size_t index = 0; index < values.size(); ++index) values[index] -= share * direction[index];
      }
  }
  std::size_t rank() const { return basis_.size(); }

 private:
  std::vector<std::vector<double>> basis_;
};

Fit fit_of(std::size_t n, const HeldFixed& held) {
  Fit fit;
  fit.add(std::vector<double>(n, 1));
  for (const auto& values : held.given) fit.add(ranks_of(values));
  for (const auto& categories : held.within) {
    const auto largest = std::max_element(categories.begin(), categories.end());
    const std::size_t count = largest == categories.end() ? 0 : *largest + 1;
    for (std::size_t category = 0; category < count; ++category) {
      std::vector<double> indicator(n);
      for (std::size_t index = 0; index < n; ++index) indicator[index] = categories[index] == category;
      fit.add(std::move(indicator));
    }
  }
  return fit;
}

template <class Value>
std::vector<Value> chosen(const std::vector<Value>& values, const std::vector<std::size_t>& indices) {
  std::vector<Value> some;
  for (const std::size_t index : indices) some.push_back(values[index]);
  return some;
}

}  // namespace

PartialCorrelation partial_spearman(const std::vector<double>& left, const std::vector<double>& right,
                                    const HeldFixed& held) {
  const auto is_short = [&](const auto& values) { return values.size() != left.size(); };
  require(!is_short(right) && std::none_of(held.given.begin(), held.given.end(), is_short) &&
              std::none_of(held.within.begin(), held.within.end(), is_short),
          "statistics", "both sides and what is held fixed must have as many values, got ", left.size(), " and ",
          right.size());
  const Fit fit = fit_of(left.size(), held);
  std::vector<double> a = ranks_of(left), b = ranks_of(right);
  const double smallest = kNothingLeft * product(a, a);
  fit.remove_from(a);
  fit.remove_from(b);
  const double aa = product(a, a), bb = product(b, b);
  const bool is_defined = aa > smallest && bb > smallest;
  return {
      is_defined ? std::clamp(product(a, b) / std::sqrt(aa * bb), -1.0, 1.0) : std::numeric_limits<double>::quiet_NaN(),
      double(left.size()) - 1 - double(fit.rank())};
}

std::optional<Interval> partial_spearman_interval(const std::vector<double>& left, const std::vector<double>& right,
                                                  const HeldFixed& held) {
  return bootstrap_interval(
      left.size(),
      [&](const std::vector<std::size_t>& indices) {
        HeldFixed resampled;
        for (const auto& values : held.given) resampled.given.push_back(chosen(values, indices));
        for (const auto& categories : held.within) resampled.within.push_back(chosen(categories, indices));
        const double rho = partial_spearman(chosen(left, indices), chosen(right, indices), resampled).rho;
        return std::isnan(rho) ? 0 : rho;
      },
      "spearman");
}

std::optional<double> correlation_test(const PartialCorrelation& correlation) {
  const auto [rho, freedom] = correlation;
  if (!(freedom >= 1) || std::isnan(rho)) return std::nullopt;
  const double unexplained = 1 - rho * rho;
  const double p = unexplained <= 0 ? 0 : student_t_two_sided(rho * std::sqrt(freedom / unexplained), freedom);
  return std::max(p, 2 / std::tgamma(freedom + 3));
}

double spearman_correlation(const std::vector<double>& left, const std::vector<double>& right) {
  return partial_spearman(left, right, {}).rho;
}

std::optional<Interval> spearman_interval(const std::vector<double>& left, const std::vector<double>& right) {
  return partial_spearman_interval(left, right, {});
}

}  // namespace lmhead
