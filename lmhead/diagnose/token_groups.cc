#include "lmhead/diagnose/token_groups.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <nlohmann/json.hpp>

#include "lmhead/diagnose/diagnostic.h"

namespace lmhead {

GroupSums::GroupSums(std::int64_t groups) : sums_(at::zeros({groups, 4}, at::kDouble)) {}

void GroupSums::add(const at::Tensor& group, const TokenEnergies& energies) {
  const at::Tensor values = at::stack(std::vector<at::Tensor>{at::ones_like(energies.total), energies.total,
                                                              energies.retained, -energies.log_probability},
                                      1);
  sums_.index_add_(0, group, values);
}

GroupSums GroupSums::merged(const at::Tensor& group, std::int64_t groups) const {
  GroupSums merged(groups);
  merged.sums_.index_add_(0, group, sums_);
  return merged;
}

Json GroupSums::to_json(const std::vector<std::string>& names) const {
  const double all_energy = sums_.select(1, 1).sum().item<double>();
  Json list = Json::array();
  for (std::int64_t index = 0; index < sums_.size(0); ++index) {
    const double* sum = sums_.const_data_ptr<double>() + 4 * index;
    if (sum[0] == 0) continue;
    list.push_back({{"group", names.at(index)},
                    {"tokens", std::int64_t(sum[0])},
                    {"energy_share", number_or_null(sum[1] / all_energy)},
                    {"retained_energy", number_or_null(sum[2] / sum[1])},
                    {"loss", number_or_null(sum[3] / sum[0])}});
  }
  return list;
}

}  // namespace lmhead
