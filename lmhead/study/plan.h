// Which runs a study needs, as a function of the runs that are finished: searches, then confirmation.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/study/study.h"

namespace lmhead {

enum class RunPhase { kSearch, kConfirm };
const char* to_string(RunPhase phase);

struct StudyRun {
  std::size_t arm;  // index
  std::string arm_name;
  RunPhase phase;
  std::int64_t seed;
  KeyValues searched;
  std::string folder;  // relative to the study's
  Json configuration;  // complete
};

/// Where the best of a key's candidates lies among them.
enum class Edge { kNone, kLow, kHigh, kBoth };
const char* to_string(Edge edge);

/// The search of one key in one round, as far as it has come.
struct KeySearch {
  std::string path;
  std::vector<double> values;                 // ascending, extensions included
  std::vector<std::vector<double>> outcomes;  // [value][search seed]; NaN: not finished, infinite: diverged
  std::optional<double> best;                 // nothing while candidates are missing
  Edge edge = Edge::kNone;                    // of the best, once there is nothing more to extend
};

struct ArmPlan {
  std::vector<KeySearch> search;                         // keys that have begun, round after round
  bool searched = false;                                 // every key has its best
  KeyValues best;                                        // of the keys that have one
  std::vector<StudyRun> search_runs, confirmation_runs;  // the latter once `searched`
};

struct StudyPlan {
  std::vector<ArmPlan> arms;
  std::vector<StudyRun> runs;  // known now, in the order in which they are carried out
  std::int64_t to_come = 0;    // runs that will follow for sure, with values not yet known
};

/// A run's outcome where it is finished; not finite where it diverged.
using OutcomeOf = std::function<std::optional<double>(const StudyRun&)>;

/// Plans a study anew after every run. The rule is in docs/statistics.md, "Search".
class StudyPlanner {
 public:
  explicit StudyPlanner(const Study& study);

  /// The places of the grid one after another, so that a study cut short is whole at the first of them. At each,
  /// searches come first, arm by arm; then confirmation seed by seed, so that pairs are whole. Every configuration is
  /// checked; throws on one that is wrong.
  StudyPlan plan(const OutcomeOf& outcome_of);

 private:
  const StudyRun& run_of(std::size_t arm, RunPhase phase, const KeyValues& searched, std::int64_t seed);
  void plan_search(std::size_t arm, const OutcomeOf& outcome_of, StudyPlan& plan);
  KeySearch search_key(std::size_t arm, const SearchKey& key, const OutcomeOf& outcome_of, ArmPlan& plan);
  bool search_round(std::size_t arm, std::int64_t round, const OutcomeOf& outcome_of, StudyPlan& plan);

  const Study& study_;
  std::vector<std::vector<std::size_t>> places_;  // the arms at each place of the grid
  std::map<std::string, StudyRun> runs_;          // by folder: checking a configuration takes a while
};

}  // namespace lmhead
