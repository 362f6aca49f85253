// Sums over groups of tokens.
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

}  // namespace lmhead
