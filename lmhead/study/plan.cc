#include "lmhead/study/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace lmhead {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Six digits, so that 0.004 / 3 * 3 is 0.004 again, in folder names too.
double rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return std::strtod(text, nullptr);
}

std::string folder_of(const StudyArm& arm, const KeyValues& searched, std::int64_t seed) {
  std::string values;
  for (const auto& [path, value] : searched) values += (values.empty() ? "" : "_") + path + "-" + value.dump();
  return "runs/" + as_folder_name(arm.name) + "/" + (values.empty() ? "" : as_folder_name(values) + "/") + "seed-" +
         std::to_string(seed);
}

/// Index of the smallest mean; the smaller value of two that tie, so where all diverged the smallest.
std::size_t index_of_best(const std::vector<std::vector<double>>& outcomes, bool higher_is_better) {
  std::size_t best = 0;
  double lowest = kInfinity;
  for (std::size_t index = 0; index < outcomes.size(); ++index) {
    double sum = 0;
    for (const double outcome : outcomes[index])
      sum += !std::isfinite(outcome) ? kInfinity : higher_is_better ? -outcome : outcome;
    const double mean = sum / double(outcomes[index].size());
    if (mean < lowest) best = index, lowest = mean;
  }
  return best;
}

/// `values` with `path` set to `value`: in its place, or at the end.
KeyValues with_value(KeyValues values, const std::string& path, const Json& value) {
  const auto place = std::ranges::find(values, path, &KeyValues::value_type::first);
  if (place != values.end()) place->second = value;
  else values.emplace_back(path, value);
  return values;
}

Edge edge_of(std::size_t index, std::size_t size) {
  if (size == 1) return Edge::kBoth;
  return index == 0 ? Edge::kLow : index + 1 == size ? Edge::kHigh : Edge::kNone;
}

}  // namespace

const char* to_string(RunPhase phase) { return phase == RunPhase::kSearch ? "search" : "confirm"; }

const char* to_string(Edge edge) {
  switch (edge) {
    case Edge::kNone:
      return "none";
    case Edge::kLow:
      return "low";
    case Edge::kHigh:
      return "high";
    case Edge::kBoth:
      return "both";
  }
  return "";
}

StudyPlanner::StudyPlanner(const Study& study) : study_(study) {
  std::map<std::string, std::size_t> known;
  for (std::size_t arm = 0; arm < study.arms.size(); ++arm) {
    const std::size_t place = known.emplace(Json(study.arms[arm].grid).dump(), known.size()).first->second;
    places_.resize(known.size());
    places_[place].push_back(arm);
  }
}

const StudyRun& StudyPlanner::run_of(std::size_t arm, RunPhase phase, const KeyValues& searched, std::int64_t seed) {
  const StudyArm& owner = study_.arms[arm];
  const std::string folder = folder_of(owner, searched, seed);
  const auto found = runs_.find(folder);
  if (found != runs_.end()) return found->second;
  KeyValues set = searched;
  if (phase == RunPhase::kConfirm) set.insert(set.end(), study_.confirm.begin(), study_.confirm.end());
  return runs_
      .emplace(folder,
               StudyRun{arm, owner.name, phase, seed, searched, folder, configuration_of(study_, owner, set, seed)})
      .first->second;
}

KeySearch StudyPlanner::search_key(std::size_t arm, const SearchKey& key, const OutcomeOf& outcome_of, ArmPlan& plan) {
  const SearchOptions& options = study_.arms[arm].search;
  KeySearch search{key.path, key.values, {}, std::nullopt, Edge::kNone};
  for (std::int64_t extensions = 0;; ++extensions) {
    bool finished = true;
    search.outcomes.clear();
    for (const double value : search.values) {
      const KeyValues searched = with_value(plan.best, key.path, value);
      std::vector<double>& outcomes = search.outcomes.emplace_back();
      for (const std::int64_t seed : options.seeds) {
        const StudyRun& run = run_of(arm, RunPhase::kSearch, searched, seed);
        const auto same = [&](const StudyRun& other) { return other.folder == run.folder; };
        if (std::none_of(plan.search_runs.begin(), plan.search_runs.end(), same)) plan.search_runs.push_back(run);
        const std::optional<double> outcome = outcome_of(run);
        finished &= outcome.has_value();
        outcomes.push_back(!outcome ? std::nan("") : std::isfinite(*outcome) ? *outcome : kInfinity);
      }
    }
    if (!finished) return search;
    const std::size_t best = index_of_best(search.outcomes, study_.higher_is_better);
    search.edge = edge_of(best, search.values.size());
    const double lower = rounded(search.values.front() / key.factor),
                 higher = rounded(search.values.back() * key.factor);
    if (search.edge == Edge::kNone || extensions == options.max_extensions) {
      search.best = search.values[best];
      return search;
    }
    if (search.edge != Edge::kHigh) search.values.insert(search.values.begin(), lower);
    if (search.edge != Edge::kLow) search.values.push_back(higher);
  }
}

/// Searches every key once; false where runs are missing.
bool StudyPlanner::search_round(std::size_t arm, std::int64_t round, const OutcomeOf& outcome_of, StudyPlan& plan) {
  ArmPlan& own = plan.arms[arm];
  const SearchOptions& options = study_.arms[arm].search;
  for (std::size_t index = 0; index < options.keys.size(); ++index) {
    SearchKey key = options.keys[index];
    if (round > 0) {  // the other keys have moved since: is the best still better than its neighbours?
      const double best = own.best[index].second.get<double>();
      key.values = {rounded(best / key.factor), best, rounded(best * key.factor)};
    }
    own.search.push_back(search_key(arm, key, outcome_of, own));
    if (!own.search.back().best) {
      for (std::size_t later = index + 1; round == 0 && later < options.keys.size(); ++later)
        plan.to_come += std::int64_t(options.keys[later].values.size() * options.seeds.size());
      return false;
    }
    own.best = with_value(own.best, key.path, *own.search.back().best);
  }
  return true;
}

void StudyPlanner::plan_search(std::size_t arm, const OutcomeOf& outcome_of, StudyPlan& plan) {
  ArmPlan& own = plan.arms[arm];
  for (std::int64_t round = 0; round < study_.arms[arm].search.rounds; ++round) {
    const KeyValues before = own.best;
    if (!search_round(arm, round, outcome_of, plan)) return;
    if (own.best == before) break;
  }
  own.searched = true;
}

StudyPlan StudyPlanner::plan(const OutcomeOf& outcome_of) {
  StudyPlan plan;
  plan.arms.resize(study_.arms.size());
  for (const std::vector<std::size_t>& arms : places_) {
    for (const std::size_t arm : arms) {
      plan_search(arm, outcome_of, plan);
      plan.runs.insert(plan.runs.end(), plan.arms[arm].search_runs.begin(), plan.arms[arm].search_runs.end());
    }
    for (const std::int64_t seed : study_.seeds)
      for (const std::size_t arm : arms) {
        ArmPlan& own = plan.arms[arm];
        if (!own.searched) {
          ++plan.to_come;
          continue;
        }
        own.confirmation_runs.push_back(run_of(arm, RunPhase::kConfirm, own.best, seed));
        plan.runs.push_back(own.confirmation_runs.back());
      }
  }
  return plan;
}

}  // namespace lmhead
