// One line a finished run: all that statistics need, so that the run's folder may go.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/study/plan.h"

namespace lmhead {

/// What tells two runs apart, wherever their data lies.
struct RunIdentity {
  std::string configuration;              // hash, see `configuration_hash`
  std::optional<std::string> dataset;     // content hash; nothing where the data is not there
  std::optional<double> flops_per_token;  // nothing where the data, and so the vocabulary, is not there
};

/// A hash of every value that is not its key's default and can change a run's figures: not of `data.path`,
/// threads or checkpoints. A new key with a neutral default changes no hash; two orders of keys give one.
std::string configuration_hash(const Json& complete);
/// The values that are hashed.
Json settings_of(const Json& complete);

/// Identities of runs; data and models are looked at once for all runs that share them.
class RunIdentities {
 public:
  const RunIdentity& of(const StudyRun& run);

 private:
  std::map<std::string, RunIdentity> runs_;                               // by folder
  std::map<std::string, std::pair<std::string, std::int64_t>> datasets_;  // content hash, vocabulary
  std::map<std::string, double> flops_;
};

/// The row of a run that is finished in `run_folder`: its figures, its validation curve, what observers said
/// last and, where that is short or the study's `keep` names it, over training. Throws where the outcome is not there.
Json make_row(const Study& study, const StudyRun& run, const RunIdentity& identity,
              const std::filesystem::path& run_folder);

/// The row of a run whose loss stopped being finite.
Json make_diverged_row(const Study& study, const StudyRun& run, const RunIdentity& identity,
                       const std::filesystem::path& run_folder, const std::string& error);

/// Calls `visit` for every number below `json`, with its dotted name.
void flatten_numbers(const std::string& prefix, const Json& json,
                     const std::function<void(const std::string& name, const Json& value)>& visit);

/// The outcome of a row; infinite where the run diverged.
double outcome_of(const Json& row);

}  // namespace lmhead
