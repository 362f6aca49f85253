// What a comparison allows to say, in words, by a rule that is written down (docs/statistics.md, "Verdicts").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/statistics/statistics.h"

namespace lmhead {

/// Paired differences arm - baseline of one comparison, and what follows from them.
struct PairedStatistics {
  std::vector<double> differences;
  double mean_difference = 0;
  std::optional<Interval> interval;            // 95 %, Student's t
  std::optional<Interval> bootstrap_interval;  // 95 %, BCa
  std::optional<double> effect_size;           // Hedges' g of paired differences
  std::optional<double> p_value;               // Student's t
  double sign_flip_p = 1;
  std::optional<double> holm_p;  // of `p_value`, over the study's comparisons
};

/// Everything but `holm_p`. There must be at least one difference.
PairedStatistics paired_statistics(const std::vector<double>& differences);

enum class Finding { kHarm, kGain, kNoHarm, kUndecided };
const char* to_string(Finding finding);

struct Verdict {
  Finding finding;
  std::optional<std::int64_t> more_seeds;  // of kUndecided: about so many would decide; nothing: beyond kMostSeeds
  std::string words;
};

constexpr std::int64_t kMostSeeds = 1000;

struct VerdictRule {
  bool higher_is_better = false;
  std::optional<double> margin;  // smallest difference that would matter
};

Verdict decide(const PairedStatistics& statistics, const VerdictRule& rule);

/// How our figures stand to a source's difference and, where it gave one, its interval.
std::string compare_with_source(const PairedStatistics& statistics, double difference,
                                const std::optional<Interval>& interval);
/// The same where the source gave nothing but a sign: '+', '-' or '0'.
std::string compare_with_sign(const PairedStatistics& statistics, char sign, const std::optional<double>& margin);

/// "+0.063 [0.041, 0.086]", with three significant digits of the interval's width.
std::string format_difference(double difference, const std::optional<Interval>& interval);

}  // namespace lmhead
