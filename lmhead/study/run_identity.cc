#include "lmhead/study/run_identity.h"

#include "lmhead/base/content_hash.h"
#include "lmhead/base/error.h"
#include "lmhead/base/random.h"
#include "lmhead/data/batches.h"
#include "lmhead/run/cost.h"
#include "lmhead/run/input_files.h"
#include "lmhead/run/run.h"
#include "lmhead/study/pinned_defaults.h"

namespace lmhead {
namespace {

/// What of `json` differs from `defaults`. A list that differs is there whole, less what `defaults` has for members of
/// its items under its name and `[]`.
Json without_defaults(const Json& json, const Json& defaults) {
  Json left = Json::object();
  for (const auto& item : json.items()) {
    const auto other = defaults.find(item.key());
    const auto of_items = defaults.find(item.key() + "[]");
    if (other != defaults.end() && item.value().is_object() && other->is_object()) {
      const Json below = without_defaults(item.value(), *other);
      if (!below.empty()) left[item.key()] = below;
    } else if (other == defaults.end() || item.value() != *other) {
      left[item.key()] = item.value();
      if (of_items == defaults.end() || !item.value().is_array()) continue;
      for (Json& one : left[item.key()]) one = without_defaults(one, *of_items);
    }
  }
  return left;
}

}  // namespace

Json settings_of(const Json& complete) {
  const std::string head_type = complete.at("head").at("type").get<std::string>();
  Json settings = without_defaults(complete, pinned_defaults(head_type));
  settings["head"]["type"] = head_type;
  if (settings.contains("data")) settings["data"].erase("path");
  settings.erase("parallel");
  if (settings.contains("training"))
    for (const char* key :
         {"threads", "device", "checkpoint_activations", "log_every", "checkpoint_every", "keep_last"})
      settings["training"].erase(key);
  return settings;
}

std::string hash_of_values(const Json& json) {
  const nlohmann::json sorted = nlohmann::json::parse(json.dump());
  return hash_text_in_hex(sorted.dump());
}

std::string configuration_hash(const Json& complete) { return hash_of_values(settings_of(complete)); }

/// A file that cannot be read has a name that no content has; the run itself will say what is wrong.
std::string RunIdentities::hash_of(const std::string& file) {
  const auto known = files_.find(file);
  if (known != files_.end()) return known->second;
  std::string hash = "unreadable";
  try {
    hash = hash_file(file);
  } catch (const Error&) {
  }
  return files_.emplace(file, std::move(hash)).first->second;
}

const RunIdentity& RunIdentities::of(const StudyRun& run) {
  const auto known = runs_.find(run.folder);
  if (known != runs_.end()) return known->second;
  RunIdentity identity{.settings = settings_of(run.configuration)};
  for (const InputFileKind& kind : input_file_kinds()) {
    const std::string path = input_file(run.configuration, kind);
    if (path.empty()) continue;
    identity.files[kind.name] = hash_of(path);
    identity.settings[kind.place] = identity.files[kind.name];
  }
  identity.configuration = hash_of_values(identity.settings);
  const auto configuration = read_options<RunConfiguration>(run.configuration).train;
  Json data = run.configuration.at("data");
  const std::string data_key = data.dump() + run.configuration["model"]["vocab_size"].dump();
  try {
    auto found = datasets_.find(data_key);
    if (found == datasets_.end()) {
      const auto batches =
          open_batches(configuration.data, std::uint64_t(configuration.training.seed), configuration.model.vocab_size);
      found = datasets_.emplace(data_key, std::pair(batches->content_hash(), batches->vocab_size())).first;
    }
    identity.dataset = found->second.first;
    const std::int64_t vocab_size = configuration.model.vocab_size.value_or(found->second.second);
    std::string flops_key = data.dump() + std::to_string(vocab_size);
    for (const char* part : {"model", "head", "head_gradient"}) flops_key += run.configuration[part].dump();
    const auto flops = flops_.find(flops_key);
    identity.flops_per_token = flops != flops_.end()
                                   ? flops->second
                                   : (flops_[flops_key] = training_flops_per_token(configuration, vocab_size));
  } catch (const std::exception&) {  // no such data, or too large for memory: the run itself will say so
  }
  return runs_.emplace(run.folder, std::move(identity)).first->second;
}

}  // namespace lmhead
