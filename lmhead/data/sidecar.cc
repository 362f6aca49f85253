#include "lmhead/data/sidecar.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/base/json.h"
#include "lmhead/data/token_file.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kLargest = 1 << 24;  // bytes of a sidecar
constexpr std::int64_t kMost = std::int64_t(1) << 60;

/// An object of the sidecar; every getter throws with the file and the dotted key.
class SidecarObject {
 public:
  SidecarObject(const Json& json, std::string file, std::string prefix)
      : json_(json), file_(std::move(file)), prefix_(std::move(prefix)) {
    if (!json.is_object())
      fail("data", file_, ": ", prefix_.empty() ? "the whole" : prefix_.substr(0, prefix_.size() - 1),
           " must be an object, got ", json.type_name());
  }

  SidecarObject object(const char* key) const { return {find(key), file_, prefix_ + key + "."}; }
  std::string text(const char* key) const {
    const Json& value = find(key);
    if (!value.is_string()) reject(key, "a text", value);
    return value.get<std::string>();
  }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const Json& value = find(key);
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= std::uint64_t(INT64_MAX)) &&
                      value.get<std::int64_t>() >= low && value.get<std::int64_t>() <= high;
    if (!fits) reject(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high), value);
    return value.get<std::int64_t>();
  }
  bool is_null(const char* key) const { return find(key).is_null(); }
  /// SHA-256 in hexadecimal.
  std::string hash(const char* key) const {
    const std::string digits = text(key);
    const bool is_hash = digits.size() == 64 && digits.find_first_not_of("0123456789abcdef") == digits.npos;
    if (!is_hash) reject(key, "64 hexadecimal digits, as sha256sum prints them", find(key));
    return digits;
  }
  /// The path of a file in the sidecar's own folder: a name with a way out of it is refused.
  fs::path file(const char* key) const {
    const std::string name = text(key);
    const bool plain =
        !name.empty() && name != "." && name != ".." && name.find_first_of(std::string("/\\\0", 3)) == name.npos;
    if (!plain) reject(key, "the plain name of a file beside it", find(key));
    return fs::path(file_).parent_path() / name;
  }
  [[noreturn]] void reject(const char* key, const std::string& wanted, const Json& got) const {
    std::string excerpt = got.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (excerpt.size() > 80) excerpt = excerpt.substr(0, 77) + "...";
    fail("data", file_, ": ", prefix_, key, " must be ", wanted, ", got ", excerpt);
  }

 private:
  const Json& find(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) fail("data", file_, ": ", prefix_, key, " must be there, got no such key");
    return *found;
  }

  const Json& json_;
  std::string file_, prefix_;
};

SidecarSplit read_split(const SidecarObject& split) {
  return {.file = split.file("file"),
          .tokens = split.integer("tokens", 1, kMost),
          .bytes = split.integer("bytes", 0, kMost),
          .documents = split.integer("documents", 1, kMost),
          .sha256 = split.hash("sha256")};
}

Sidecar read_sidecar(const fs::path& path) {
  const Json json = read_json(path, kLargest);
  const SidecarObject object(json, path.string(), "");
  if (object.text("format") != "lmhead-dataset") object.reject("format", "\"lmhead-dataset\"", json["format"]);
  object.integer("version", 1, 1);
  const std::int64_t vocab_size = object.integer("vocab_size", 1, std::int64_t(1) << 32);
  const auto type = token_type_named(object.text("token_type"));
  if (!type) object.reject("token_type", "\"uint16\" or \"uint32\"", json["token_type"]);
  const SidecarObject splits = object.object("splits");
  Sidecar sidecar{.path = path,
                  .vocab_size = vocab_size,
                  .token_type = *type,
                  .tokenizer = std::nullopt,
                  .tokenizer_hash = object.text("tokenizer_hash"),
                  .end_of_document = std::nullopt,
                  .train = read_split(splits.object("train")),
                  .validation = read_split(splits.object("validation")),
                  .content_hash = object.text("content_hash")};
  if (!object.is_null("tokenizer")) sidecar.tokenizer = object.file("tokenizer");
  if (!object.is_null("end_of_document"))
    sidecar.end_of_document = object.integer("end_of_document", 0, vocab_size - 1);
  return sidecar;
}

}  // namespace

std::optional<Sidecar> find_sidecar(const fs::path& folder) {
  const fs::path path = folder / "dataset.json";
  std::error_code ignored;
  if (fs::symlink_status(path, ignored).type() == fs::file_type::not_found) return std::nullopt;
  return read_sidecar(path);
}

TokenShard open_split(const Sidecar& sidecar, const SidecarSplit& split, std::int64_t vocab_size,
                      std::optional<TokenType> told, const char* option) {
  require(told.value_or(sidecar.token_type) == sidecar.token_type, "data", option, " must be ",
          to_string(sidecar.token_type), " as ", sidecar.path.string(), " says, got ",
          to_string(told.value_or(sidecar.token_type)));
  TokenShard shard =
      TokenShard::open_headerless(std::make_shared<const InputFile>(split.file), sidecar.token_type, vocab_size);
  require(shard.size() == split.tokens, "data", split.file.string(), " must hold the ", split.tokens,
          " tokens that dataset.json says, got ", shard.size());
  return shard;
}

}  // namespace lmhead
