// A Hugging Face config.json, read with the suspicion that a stranger's file deserves.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace lmhead {

/// An object of a configuration whose values are asked for by key and type. Without a fallback a key must be
/// there; null counts as absent. Errors read `[checkpoint] FILE: KEY must be …, got …`.
class HfConfiguration {
 public:
  /// Reads a config.json of at most 1 MiB.
  static HfConfiguration read(const std::filesystem::path& file);
  /// Parses `text`; `file` opens the messages.
  HfConfiguration(const std::string& text, const std::string& file);

  bool has(const std::string& key) const;
  /// Whether the key is there with the value null, which some keys tell from being absent.
  bool is_null(const std::string& key) const;
  /// An integer in [least, 2^31).
  std::int64_t size(const std::string& key, std::optional<std::int64_t> fallback = {}, std::int64_t least = 1) const;
  /// A finite number above 0.
  double positive(const std::string& key, std::optional<double> fallback = {}) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, std::optional<std::string> fallback = {}) const;
  /// An array of texts.
  std::vector<std::string> texts(const std::string& key) const;
  /// An integer or several; none where there is no such key.
  std::vector<std::int64_t> integers(const std::string& key) const;
  /// An array of `count` finite numbers above 0.
  std::vector<double> positives(const std::string& key, std::size_t count) const;
  /// A nested object.
  HfConfiguration object(const std::string& key) const;
  /// Throws: the value of `key` must be `must`.
  [[noreturn]] void refuse(const std::string& key, const std::string& must) const;

 private:
  HfConfiguration(nlohmann::json json, std::string file);
  HfConfiguration(std::shared_ptr<const nlohmann::json> root, const nlohmann::json* object, std::string who)
      : root_(std::move(root)), object_(object), who_(std::move(who)) {}
  const nlohmann::json* find(const std::string& key) const;
  const nlohmann::json& need(const std::string& key, const char* must) const;

  std::shared_ptr<const nlohmann::json> root_;
  const nlohmann::json* object_;  // inside root_
  std::string who_;               // the file, and for a nested object the way to it
};

}  // namespace lmhead
