#include "lmhead/statistics/verdict.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr double kLevel = 0.05;

std::string format(const char* pattern, int decimals, double value) {
  char text[48];
  std::snprintf(text, sizeof text, pattern, decimals, value);
  return text;
}

/// Digits after the point that show `size` with three significant ones.
int decimals_for(double size) {
  if (!(size > 0) || !std::isfinite(size)) return 4;
  return std::clamp(2 - int(std::floor(std::log10(size))), 0, 8);
}

/// As it would be with `n` seeds and the present mean and standard deviation.
struct Outlook {
  double half_width, p_value;
};

Outlook outlook(double center, double deviation, std::int64_t n) {
  const auto count = double(n);
  const double error = deviation / std::sqrt(count);
  return {student_t_quantile(0.975, count - 1) * error, student_t_two_sided(center / error, count - 1)};
}

/// Seeds beyond those there are with which the verdict would be decided if mean and standard deviation
/// stayed.
std::optional<std::int64_t> seeds_needed(const PairedStatistics& statistics, double harm, const VerdictRule& rule) {
  const double deviation = standard_deviation(statistics.differences);
  // Holm's correction multiplies p; the multiplier stays about what it is.
  const double multiplier = statistics.holm_p && *statistics.p_value > 0 ? *statistics.holm_p / *statistics.p_value : 1;
  const auto now = std::int64_t(statistics.differences.size());
  for (std::int64_t n = now + 1; n <= kMostSeeds; ++n) {
    const Outlook then = outlook(harm, deviation, n);
    const bool sign_decided = then.half_width < std::abs(harm) && then.p_value * std::max(1.0, multiplier) < kLevel;
    if (sign_decided || (rule.margin && harm + then.half_width < *rule.margin)) return n - now;
  }
  return std::nullopt;
}

}  // namespace

PairedStatistics paired_statistics(const std::vector<double>& differences) {
  require(!differences.empty(), "statistics", "there must be at least one difference, got none");
  PairedStatistics statistics;
  statistics.differences = differences;
  statistics.mean_difference = mean(differences);
  statistics.interval = t_interval(differences);
  statistics.bootstrap_interval = bootstrap_mean_interval(differences);
  statistics.effect_size = paired_effect_size(differences);
  statistics.p_value = t_test(differences);
  statistics.sign_flip_p = sign_flip_test(differences);
  return statistics;
}

const char* to_string(Finding finding) {
  switch (finding) {
    case Finding::kHarm:
      return "harm";
    case Finding::kGain:
      return "gain";
    case Finding::kNoHarm:
      return "no_harm";
    case Finding::kUndecided:
      return "undecided";
  }
  return "";
}

std::string format_difference(double difference, const std::optional<Interval>& interval) {
  const int decimals =
      decimals_for(interval && interval->high > interval->low ? interval->high - interval->low : std::abs(difference));
  std::string text = format("%+.*f", decimals, difference);
  if (interval)
    text += " [" + format("%.*f", decimals, interval->low) + ", " + format("%.*f", decimals, interval->high) + "]";
  return text;
}

Verdict decide(const PairedStatistics& statistics, const VerdictRule& rule) {
  if (!statistics.interval) return {Finding::kUndecided, 1, "undecided: a second seed is needed"};
  // Oriented so that more is worse.
  const double sign = rule.higher_is_better ? -1 : 1;
  const double harm = sign * statistics.mean_difference;
  const double low = std::min(sign * statistics.interval->low, sign * statistics.interval->high);
  const double high = std::max(sign * statistics.interval->low, sign * statistics.interval->high);
  const bool significant = statistics.holm_p.value_or(1) < kLevel;
  const std::string figures = format_difference(statistics.mean_difference, statistics.interval);
  if (low > 0 && significant) return {Finding::kHarm, std::nullopt, "harm shown: " + figures};
  if (high < 0 && significant) return {Finding::kGain, std::nullopt, "gain shown: " + figures};
  if (rule.margin && high < *rule.margin) {
    if (high < 0) return {Finding::kNoHarm, std::nullopt, "no harm shown, nor a gain after Holm's correction"};
    const double bound = high > 0 ? high : 0;  // never minus zero
    return {Finding::kNoHarm, std::nullopt,
            "no harm larger than " + format("%.*f", decimals_for(*rule.margin), bound) + " shown"};
  }
  if (standard_deviation(statistics.differences) == 0)
    return {Finding::kUndecided, std::nullopt, "undecided: the pairs do not differ, and there is no margin"};
  const auto more = seeds_needed(statistics, harm, rule);
  return {Finding::kUndecided, more,
          "undecided: " + (more ? "about " + std::to_string(*more) : "more than " + std::to_string(kMostSeeds)) +
              (more == 1 ? " more seed" : " more seeds") + " needed"};
}

std::string compare_with_source(const PairedStatistics& statistics, double difference,
                                const std::optional<Interval>& interval) {
  if (!statistics.interval) return "one seed does not speak to the source";
  const auto [low, high] = *statistics.interval;
  std::string words = low <= 0 && high >= 0                                  ? "does not decide the source's sign"
                      : (statistics.mean_difference > 0) == (difference > 0) ? "agrees with the source's sign"
                                                                             : "contradicts the source's sign";
  words += low <= difference && difference <= high ? "; the source's value lies in our interval"
                                                   : "; the source's value lies outside our interval";
  if (interval)
    words += interval->low <= high && low <= interval->high ? ", the intervals overlap" : ", the intervals are apart";
  return words;
}

std::string compare_with_sign(const PairedStatistics& statistics, char sign, const std::optional<double>& margin) {
  if (!statistics.interval) return "one seed does not speak to the source";
  const auto [low, high] = *statistics.interval;
  const bool around_zero = low <= 0 && high >= 0;
  if (sign == '0') {
    if (margin && low > -*margin && high < *margin)
      return "agrees with the source: no difference as large as the margin";
    return around_zero ? "does not contradict the source: zero lies in our interval"
                       : "contradicts the source: zero lies outside our interval";
  }
  if (around_zero) return "does not decide the expected sign";
  return (statistics.mean_difference > 0) == (sign == '+') ? "agrees with the expected sign"
                                                           : "contradicts the expected sign";
}

}  // namespace lmhead
