// The statistics of studies for Python: means over documents, and what differences of them allow to say.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/options.h"
#include "lmhead/statistics/verdict.h"

namespace lmhead {
namespace {

Json to_json(const std::optional<Interval>& interval) {
  return interval ? Json{interval->low, interval->high} : Json(nullptr);
}

/// Of each of `samples` [n]: mean, intervals, p of a mean of zero and, corrected over all samples, what follows from it
/// by docs/statistics.md; a margin that is no number is none. JSON, one object a sample. The randomisation test of
/// `paired_statistics` is left out: of thousands of documents it says what Student's t does.
std::string mean_statistics(const at::TensorList& samples, const at::IntArrayRef& higher_is_better, double margin) {
  require(higher_is_better.size() == samples.size(), "statistics", "there must be a direction for each sample, got ",
          higher_is_better.size(), " for ", samples.size());
  std::vector<PairedStatistics> all;
  std::vector<double> p_values;
  for (const at::Tensor& sample : samples) {
    require(sample.dim() == 1 && sample.size(0) > 0, "statistics", "a sample must be [n] with n >= 1, got ",
            sample.sizes());
    const at::Tensor values = sample.to(at::kDouble).contiguous();
    PairedStatistics statistics;
    statistics.differences.assign(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
    statistics.mean_difference = mean(statistics.differences);
    statistics.interval = t_interval(statistics.differences);
    statistics.bootstrap_interval = bootstrap_mean_interval(statistics.differences);
    statistics.p_value = t_test(statistics.differences);
    p_values.push_back(statistics.p_value.value_or(1));
    all.push_back(std::move(statistics));
  }
  const std::vector<double> corrected = holm_adjusted(p_values);
  Json result = Json::array();
  for (std::size_t index = 0; index < all.size(); ++index) {
    PairedStatistics& statistics = all[index];
    if (statistics.p_value) statistics.holm_p = corrected[index];
    const Verdict verdict = decide(statistics, {.higher_is_better = higher_is_better[index] != 0,
                                                .margin = std::isnan(margin) ? std::nullopt : std::optional(margin)});
    result.push_back({{"mean", statistics.mean_difference},
                      {"n", statistics.differences.size()},
                      {"interval", to_json(statistics.interval)},
                      {"bootstrap_interval", to_json(statistics.bootstrap_interval)},
                      {"p_value", statistics.p_value ? Json(*statistics.p_value) : Json(nullptr)},
                      {"holm_p", statistics.holm_p ? Json(*statistics.holm_p) : Json(nullptr)},
                      {"finding", to_string(verdict.finding)}});
  }
  return result.dump();
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.def("mean_statistics(Tensor[] samples, int[] higher_is_better, float margin) -> str");
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  library.impl("mean_statistics", [](const at::TensorList& samples, at::IntArrayRef higher_is_better, double margin) {
    return mean_statistics(samples, higher_is_better, margin);
  });
}

}  // namespace
}  // namespace lmhead
