#include "lmhead/study/confirmed_rows.h"

namespace lmhead {

std::vector<std::pair<std::string, double>> figures_of(const Json& row) {
  std::vector<std::pair<std::string, double>> figures;
  for (const auto& [key, prefix] : {std::pair("final", "validation"), std::pair("observations", "")})
    if (row.contains(key) && row[key].is_object())
      flatten_numbers(prefix, row[key], [&](const std::string& name, const Json& value) {
        figures.emplace_back(name, value.get<double>());
      });
  return figures;
}

}  // namespace lmhead
