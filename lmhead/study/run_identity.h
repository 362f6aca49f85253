// When two runs are the same run.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "lmhead/study/plan.h"

namespace lmhead {

/// What tells two runs apart, wherever its files lie.
struct RunIdentity {
  std::string configuration;                 // hash of `settings`
  Json settings;                             // see `settings_of`
  std::optional<std::string> dataset;        // content hash; nothing where the data is not there
  std::map<std::string, std::string> files;  // content hashes of those it reads, by the names of input_file_kinds()
  std::optional<double> flops_per_token;     // nothing where the data, and so the vocabulary, is not there
};

/// A hash of every value, the same for any order of keys.
std::string hash_of_values(const Json& json);
/// The values that can change a run's figures and are not the pinned defaults (pinned_defaults.h): not `data.path`,
/// threads or checkpoints. In an identity, a file that the run reads beside its data is the hash of its content.
Json settings_of(const Json& complete);
/// The hash of these settings: a new key with a neutral default changes none, a changed default gives a run another.
std::string configuration_hash(const Json& complete);

/// Identities of runs; data and models are looked at once for all runs that share them.
class RunIdentities {
 public:
  const RunIdentity& of(const StudyRun& run);

 private:
  std::string hash_of(const std::string& file);
  std::map<std::string, RunIdentity> runs_;                               // by folder
  std::map<std::string, std::pair<std::string, std::int64_t>> datasets_;  // content hash, vocabulary
  std::map<std::string, double> flops_;
  std::map<std::string, std::string> files_;  // content hash by path
};

}  // namespace lmhead
