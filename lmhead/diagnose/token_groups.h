// Sums over groups of tokens, and the groups that tokens fall into.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/diagnose/head_space.h"

namespace lmhead {

/// Four float64 sums a group: tokens, total energy, retained energy, loss.
class GroupSums {
 public:
  explicit GroupSums(std::int64_t groups);
  /// Adds each token to the group that `group` [n] int64 names.
  void add(const at::Tensor& group, const TokenEnergies& energies);
  void reset() { sums_.zero_(); }
  /// [groups, 4]
  const at::Tensor& sums() const { return sums_; }
  /// The same sums over groups of groups: `group` [groups] names the new one of each.
  GroupSums merged(const at::Tensor& group, std::int64_t groups) const;
  /// A list of objects, one a group that is not empty: `group`, `tokens`, `energy_share`, `retained_energy`,
  /// `loss`.
  Json to_json(const std::vector<std::string>& names) const;

 private:
  at::Tensor sums_;
};

/// Bands of tokens by the rank of their count in `counts` [V]: the 10 most frequent, up to the 100th, and so
/// on; tokens with count 0 are a band of their own, the last. Ties are ranked by id.
struct FrequencyBands {
  at::Tensor band;  // [V] int64
  std::vector<std::string> names;
};
FrequencyBands frequency_bands(const at::Tensor& counts);

/// Adds one for every target to `counts` [V].
void count_targets(const at::Tensor& targets, at::Tensor& counts);

}  // namespace lmhead
