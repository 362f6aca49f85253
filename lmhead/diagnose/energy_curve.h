// How much of a matrix's energy its best k directions hold, known exactly or between two bounds.
#pragma once

#include <cstdint>
#include <vector>

namespace lmhead {

/// Bounds that a figure lies between; equal where it is known.
template <class Number>
struct Interval {
  Number low, high;
};

/// B(k) = share of the energy in the best k directions, the largest of all rank-k shares (Eckart-Young).
///
/// Known of A = G^T G are its trace, a bound on its rank, and the eigenvalues of some positive semidefinite matrix that
/// is nowhere above A. By Weyl's inequality their sums are lower bounds on the sums of A's; what the k smallest leave
/// over, at most the whole trace of the difference, makes upper bounds. B is concave and ends at (rank, 1), so no chord
/// to that point lies above it.
class EnergyCurve {
 public:
  /// `energies`, largest first, none negative; `total` is the trace, not below their sum but for rounding; `rank` is
  /// the most that A can have. Eigenvalues that are all of A give a curve without doubt.
  EnergyCurve(const std::vector<double>& energies, double total, std::int64_t rank);

  /// Bounds on B(k), k >= 0. NaN where there is no energy.
  Interval<double> best(std::int64_t k) const;
  /// Bounds on the smallest k with B(k) >= `share`; `share` in (0, 1].
  Interval<std::int64_t> components(double share) const;
  /// Share of the energy that the eigenvalues given do not account for: no interval is wider.
  double unresolved() const;
  std::int64_t rank() const { return rank_; }

 private:
  std::vector<double> sums_;  // of the first k energies, from k = 0
  double total_;
  std::int64_t rank_;
  std::int64_t chord_from_;  // beyond this k the chord to the end is the better lower bound
};

}  // namespace lmhead
