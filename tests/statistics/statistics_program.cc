// Every statistic of each sample on standard input as JSON, for comparison with SciPy: {"samples": [[...]],
// "pairs": [[[...], [...]]], "partial": [{"left", "right", "given": [[...]], "within": [[...]]}],
// "p_values": [...], "t": [[t, degrees of freedom]]}.
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "lmhead/base/options.h"
#include "lmhead/statistics/rank_correlation.h"
#include "lmhead/statistics/verdict.h"

namespace {

using lmhead::Json;

Json interval(const std::optional<lmhead::Interval>& ends) {
  return ends ? Json{ends->low, ends->high} : Json(nullptr);
}
Json number(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

}  // namespace

int main() {
  const Json input = Json::parse(std::string(std::istreambuf_iterator<char>(std::cin), {}));
  Json output = {{"samples", Json::array()}, {"pairs", Json::array()}, {"t", Json::array()}};
  for (const Json& sample : input["samples"]) {
    const auto statistics = lmhead::paired_statistics(sample.get<std::vector<double>>());
    output["samples"].push_back({{"mean", statistics.mean_difference},
                                 {"interval", interval(statistics.interval)},
                                 {"bootstrap_interval", interval(statistics.bootstrap_interval)},
                                 {"effect_size", number(statistics.effect_size)},
                                 {"p_value", number(statistics.p_value)},
                                 {"sign_flip_p", statistics.sign_flip_p}});
  }
  for (const Json& pair : input["pairs"]) {
    const auto left = pair[0].get<std::vector<double>>(), right = pair[1].get<std::vector<double>>();
    output["pairs"].push_back({{"spearman", lmhead::spearman_correlation(left, right)},
                               {"interval", interval(lmhead::spearman_interval(left, right))}});
  }
  for (const Json& item : input["partial"]) {
    const auto left = item["left"].get<std::vector<double>>();
    const auto right = item["right"].get<std::vector<double>>();
    const lmhead::HeldFixed held{item["given"].get<std::vector<std::vector<double>>>(),
                                 item["within"].get<std::vector<std::vector<std::size_t>>>()};
    const auto correlation = lmhead::partial_spearman(left, right, held);
    const auto ends = lmhead::partial_spearman_interval(left, right, held);
    output["partial"].push_back({{"rho", correlation.rho},
                                 {"degrees_of_freedom", correlation.degrees_of_freedom},
                                 {"p_value", number(lmhead::correlation_test(correlation))},
                                 {"interval", interval(ends)}});
  }
  for (const Json& t : input["t"])
    output["t"].push_back(
        {{"two_sided", lmhead::student_t_two_sided(t[0], t[1])}, {"quantile", lmhead::student_t_quantile(t[2], t[1])}});
  output["holm"] = lmhead::holm_adjusted(input["p_values"].get<std::vector<double>>());
  std::cout << output << '\n';
}
