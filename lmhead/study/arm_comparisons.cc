#include "lmhead/study/arm_comparisons.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "lmhead/statistics/verdict.h"
#include "lmhead/study/arm_summary.h"
#include "lmhead/study/equal_cost.h"
#include "lmhead/study/statistics_json.h"

namespace lmhead {
namespace {

Json statistics_json(const PairedStatistics& statistics) {
  return {{"mean_difference", number_or_null(statistics.mean_difference)},
          {"interval", interval_or_null(statistics.interval)},
          {"bootstrap_interval", interval_or_null(statistics.bootstrap_interval)},
          {"effect_size", number_or_null(statistics.effect_size)},
          {"p_value", number_or_null(statistics.p_value)},
          {"sign_flip_p", number_or_null(statistics.sign_flip_p)}};
}

Json compared_with_source(const ConfirmedRows& confirmed, const Comparison& pair, const PairedStatistics& statistics) {
  const StudyArm &arm = confirmed.study.arms[pair.arm], &baseline = confirmed.study.arms[pair.baseline];
  if (confirmed.study.source.contains("reported"))
    for (const Json& reported : confirmed.study.source["reported"]) {
      if (reported["arm"] != arm.choice || reported.value("baseline", baseline.choice) != baseline.choice) continue;
      const double difference = reported["difference"].get<double>();
      std::optional<Interval> ends;
      if (reported.contains("interval"))
        ends = Interval{reported["interval"][0].get<double>(), reported["interval"][1].get<double>()};
      return {{"difference", difference},
              {"interval", interval_or_null(ends)},
              {"words", compare_with_source(statistics, difference, ends)}};
    }
  const Json signs = confirmed.study.source.is_object() ? confirmed.study.source.value("expected_sign", Json::object())
                                                        : Json::object();
  if (!signs.contains(arm.choice)) return nullptr;
  const char sign = signs[arm.choice].get<std::string>()[0];
  return {{"sign", std::string(1, sign)}, {"words", compare_with_sign(statistics, sign, confirmed.study.margin)}};
}

struct Compared {
  Comparison pair;
  std::vector<std::int64_t> seeds;
  std::int64_t diverged_baseline = 0, diverged_arm = 0;
  std::optional<PairedStatistics> statistics;
};

Compared compare(const ConfirmedRows& confirmed, const Comparison& pair) {
  Compared compared{pair};
  std::vector<double> differences;
  for (const auto& [seed, row] : confirmed.rows[pair.baseline]) {
    const auto other = confirmed.rows[pair.arm].find(seed);
    if (other == confirmed.rows[pair.arm].end()) continue;
    const double left = outcome_of(*row), right = outcome_of(*other->second);
    compared.seeds.push_back(seed);
    compared.diverged_baseline += !std::isfinite(left);
    compared.diverged_arm += !std::isfinite(right);
    if (std::isfinite(left) && std::isfinite(right)) differences.push_back(right - left);
  }
  if (!differences.empty()) compared.statistics = paired_statistics(differences);
  return compared;
}

/// Paired differences of the figures that the study asks for beside its outcome. They are looked at, not tested: they
/// have intervals and take no part in Holm's correction.
Json details_of(const ConfirmedRows& confirmed, const Comparison& pair) {
  struct Pairs {
    std::vector<double> baseline, arm, differences;
  };
  std::vector<std::pair<std::string, Pairs>> all;  // in the order of the rows
  for (const auto& [seed, row] : confirmed.rows[pair.baseline]) {
    const auto other = confirmed.rows[pair.arm].find(seed);
    if (other == confirmed.rows[pair.arm].end()) continue;
    const auto theirs = last_figures(*other->second);
    for (const auto& [name, value] : last_figures(*row)) {
      const auto same = std::ranges::find(theirs, name, &std::pair<std::string, double>::first);
      const auto is_asked_for = [&](const std::string& pattern) {
        return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
      };
      if (same == theirs.end() || std::ranges::none_of(confirmed.study.details, is_asked_for)) continue;
      auto place = std::ranges::find(all, name, &std::pair<std::string, Pairs>::first);
      if (place == all.end()) place = all.insert(all.end(), {name, {}});
      place->second.baseline.push_back(value);
      place->second.arm.push_back(same->second);
      place->second.differences.push_back(same->second - value);
    }
  }
  Json list = Json::array();
  for (const auto& [name, pairs] : all) {
    const PairedStatistics statistics = paired_statistics(pairs.differences);
    list.push_back({{"figure", name},
                    {"seeds", pairs.differences.size()},
                    {"baseline_mean", number_or_null(mean(pairs.baseline))},
                    {"arm_mean", number_or_null(mean(pairs.arm))},
                    {"mean_difference", number_or_null(statistics.mean_difference)},
                    {"interval", interval_or_null(statistics.interval)}});
  }
  return list;
}

/// `verdict` where no run of the pair diverged and a pair is finished.
std::string words_of(const ConfirmedRows& confirmed, const Compared& compared, const std::optional<Verdict>& verdict) {
  const std::string of = " of " + std::to_string(compared.seeds.size()) + " seeds";
  if (compared.seeds.empty()) return "no pair is finished yet";
  std::string words;
  if (compared.diverged_arm > 0) words = "the arm diverged on " + std::to_string(compared.diverged_arm) + of;
  if (compared.diverged_baseline > 0)
    words += std::string(words.empty() ? "" : "; ") + "the baseline diverged on " +
             std::to_string(compared.diverged_baseline) + of;
  if (!words.empty()) return words;  // means over the seeds that survived would flatter
  words = verdict->words;
  for (const std::size_t arm : {compared.pair.baseline, compared.pair.arm})
    if (!edges_of(confirmed.plan.arms[arm]).empty())
      words += std::string("; ") + (arm == compared.pair.arm ? "the arm" : "the baseline") + " is tuned at an edge";
  return words;
}

}  // namespace

Json arm_comparisons(const ConfirmedRows& confirmed) {
  std::vector<Compared> all;
  std::vector<double> p_values;
  for (const Comparison& pair : confirmed.study.comparisons) all.push_back(compare(confirmed, pair));
  for (const Compared& one : all)
    if (one.statistics && one.statistics->p_value) p_values.push_back(*one.statistics->p_value);
  const std::vector<double> adjusted = holm_adjusted(p_values);
  std::size_t next = 0;
  Json list = Json::array();
  for (Compared& one : all) {
    Json json = {{"baseline", confirmed.study.arms[one.pair.baseline].name},
                 {"arm", confirmed.study.arms[one.pair.arm].name},
                 {"seeds", one.seeds},
                 {"diverged", {{"baseline", one.diverged_baseline}, {"arm", one.diverged_arm}}}};
    if (one.statistics) {
      if (one.statistics->p_value) one.statistics->holm_p = adjusted[next++];
      json["differences"] = one.statistics->differences;
      json.update(statistics_json(*one.statistics));
      json["holm_p"] = number_or_null(one.statistics->holm_p);
    }
    std::optional<Verdict> verdict;
    if (one.statistics && one.diverged_arm == 0 && one.diverged_baseline == 0) {
      verdict = decide(*one.statistics, {confirmed.study.higher_is_better, confirmed.study.margin});
      json["finding"] = to_string(verdict->finding);
      json["more_seeds"] = verdict->more_seeds ? Json(*verdict->more_seeds) : Json(nullptr);
      json["source"] = compared_with_source(confirmed, one.pair, *one.statistics);
    }
    json["verdict"] = words_of(confirmed, one, verdict);
    for (const auto& [cost, name] : kCosts)
      json[std::string("equal_") + name] =
          difference_at_equal(cost, confirmed.rows[one.pair.baseline], confirmed.rows[one.pair.arm]);
    if (!confirmed.study.details.empty()) json["details"] = details_of(confirmed, one.pair);
    list.push_back(json);
  }
  return list;
}

}  // namespace lmhead
