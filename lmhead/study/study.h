// What a study is: arms that differ in some keys, what of them is searched, over which seeds, and what is
// compared.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/options.h"

namespace lmhead {

/// Values of a configuration by their dotted keys.
using KeyValues = std::vector<std::pair<std::string, Json>>;

/// One key that is searched: its first candidates, ascending, and the factor of what lies beyond them.
struct SearchKey {
  std::string path;
  std::vector<double> values;
  double factor = 2;
};

/// How an arm's best values are found before it is compared; no keys: nothing is searched.
struct SearchOptions {
  std::vector<SearchKey> keys;  // one after another, each at the best of those before it
  std::vector<std::int64_t> seeds;
  std::int64_t max_extensions = 3;  // of one key's candidates
  std::int64_t rounds = 1;          // over all keys; from the second on, around the best so far
};

/// One choice of keys, with a name that tables and plots show.
struct StudyArm {
  std::string name;    // with its place in the grid
  std::string choice;  // the arm as the file names it
  KeyValues set;
  KeyValues grid;
  SearchOptions search;
};

struct Comparison {
  std::size_t baseline, arm;  // indices of arms, at the same place in the grid
};

/// Whether figures of a run, read at an early step, tell how it ends; over all runs of the study.
struct CorrelationRequest {
  bool of_progress = false;             // how far the outcome gets from `at_step` on, not where it ends
  std::vector<std::string> predictors;  // dotted names of what observers say
  std::int64_t at_step = 1;
  std::vector<std::string> given;   // dotted keys of numbers, whose ranks are held fixed
  std::vector<std::string> within;  // dotted keys, each of whose values is a category
  std::optional<double> margin;     // smallest correlation that would matter
};

/// What a paired difference is fitted by: a size of the run, or a ratio of two, as it is or its binary logarithm.
struct FitPredictor {
  std::string name, quantity;  // log2(V/D), V/D
  bool is_log2 = false;
  std::vector<std::string> sizes;  // V, D
};

/// What a fit is read at beside the places that it is made from.
struct FitPoint {
  std::string name;
  std::vector<double> quantities;  // of the predictors, one each
};

/// Least squares of paired differences over the places of the grid, linear in the predictors.
struct FitRequest {
  std::vector<FitPredictor> predictors;
  std::vector<std::string> figures;
  std::vector<FitPoint> predict;
  std::vector<std::string> keep;  // of the sizes, what rows must hold
};

/// The outcome of studies that name no other.
inline constexpr const char* kLossOutcome = "validation.loss";

struct Study {
  std::string name, description;
  Json base;                   // a run configuration
  std::vector<StudyArm> arms;  // the arms of the file times its grid; at least one
  std::vector<std::int64_t> seeds;
  KeyValues confirm;                   // of the runs that are compared and not of a search: what is observed
  std::string outcome = kLossOutcome;  // dotted path into a run's final record
  bool higher_is_better = false;
  std::optional<double> margin;  // smallest difference that would matter
  std::vector<Comparison> comparisons;
  std::vector<CorrelationRequest> correlations;
  std::vector<FitRequest> fits;
  std::string reach = "worst";       // whose final outcome others are to reach: an arm's name, or "worst"
  std::vector<std::string> details;  // figures that pairs are compared by beside the outcome; * stands for anything
  std::vector<std::string> against;  // keys of the grid or names of figures that documents plot the outcome against
  std::vector<std::string> keep;     // dotted paths that rows hold beside the usual; predictors are among them
  Json source, limits;               // as written; null where there is none
  Json json;                         // as written, overrides applied, for the study's folder
};

/// Reads a study file (docs/files.md, "A study file"). Overrides replace values of the base. Throws on
/// unknown keys, wrong types, search seeds that are seeds too, and names of arms that are not there.
Study read_study(const Json& json, const std::vector<std::string>& overrides);

/// The arm's configuration with what was searched put in, complete and checked.
Json configuration_of(const Study& study, const StudyArm& arm, const KeyValues& searched, std::int64_t seed);

/// The value at a dotted key, of which a part may be an index into a list; null where there is none.
const Json* find_value(const Json& json, const std::string& path);

/// `text` with every character outside [A-Za-z0-9._-] replaced by a dash.
std::string as_folder_name(std::string text);

}  // namespace lmhead
