// When two runs are the same run.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "lmhead/study/plan.h"

namespace lmhead {

/// What tells two runs apart, wherever their data lies.
struct RunIdentity {
  std::string configuration;              // hash, see `configuration_hash`
  std::optional<std::string> dataset;     // content hash; nothing where the data is not there
  std::optional<double> flops_per_token;  // nothing where the data, and so the vocabulary, is not there
};

/// A hash of every value, the same for any order of keys.
std::string hash_of_values(const Json& json);
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

}  // namespace lmhead
