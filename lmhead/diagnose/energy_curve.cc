#include "lmhead/diagnose/energy_curve.h"

#include <algorithm>

namespace lmhead {

EnergyCurve::EnergyCurve(const std::vector<double>& energies, double total, std::int64_t rank)
    : sums_(1, 0.0), total_(total), rank_(std::max<std::int64_t>(rank, 1)) {
  for (std::int64_t k = 0; k < std::min<std::int64_t>(rank_, std::int64_t(energies.size())); ++k)
    sums_.push_back(sums_.back() + energies[k]);
  total_ = std::max(total_, sums_.back());
  chord_from_ = std::int64_t(sums_.size()) - 1;
  // The last eigenvalues of a sketch are much too small; where they fall below the chord's slope, the chord is better.
  const auto slope = [&](std::int64_t k) { return (total_ - sums_[k]) / double(rank_ - k); };
  while (chord_from_ > 0 && chord_from_ < rank_ && sums_[chord_from_] - sums_[chord_from_ - 1] < slope(chord_from_))
    --chord_from_;
}

Interval<double> EnergyCurve::best(std::int64_t k) const {
  if (k >= rank_) return {total_ / total_, total_ / total_};
  const double known = sums_[std::min<std::int64_t>(k, std::int64_t(sums_.size()) - 1)];
  const double from = sums_[chord_from_];
  const double low =
      k <= chord_from_ ? known : from + (total_ - from) * double(k - chord_from_) / double(rank_ - chord_from_);
  return {low / total_, k == 0 ? 0 * total_ / total_ : (known + (total_ - sums_.back())) / total_};
}

Interval<std::int64_t> EnergyCurve::components(double share) const {
  const auto first = [&](double Interval<double>::* bound) {
    std::int64_t below = 0, enough = rank_;  // B(0) = 0 < share <= 1 = B(rank)
    while (enough - below > 1) {
      const std::int64_t middle = below + (enough - below) / 2;
      (best(middle).*bound >= share ? enough : below) = middle;
    }
    return enough;
  };
  return {first(&Interval<double>::high), first(&Interval<double>::low)};
}

double EnergyCurve::unresolved() const { return (total_ - sums_.back()) / total_; }

}  // namespace lmhead
