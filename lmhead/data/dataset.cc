#include "lmhead/data/dataset.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/base/options.h"
#include "lmhead/base/random.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

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

DatasetSplit read_split(const SidecarObject& split, TokenType type, std::int64_t vocab_size) {
  const fs::path path = split.file("file");
  const std::int64_t tokens = split.integer("tokens", 1, std::int64_t(1) << 60);
  const std::int64_t bytes = split.integer("bytes", 0, std::int64_t(1) << 60);
  split.integer("documents", 1, std::int64_t(1) << 60);
  split.text("sha256");
  TokenShard shard = TokenShard::open_headerless(path, type, vocab_size);
  require(shard.size() == tokens, "data", path.string(), " must hold the ", tokens,
          " tokens that dataset.json says, got ", shard.size());
  return {TokenSequence({std::move(shard)}), double(bytes) / double(tokens)};
}

Dataset read_sidecar(const fs::path& path, std::optional<std::int64_t> model_vocab_size) {
  const Json json = read_json(path, /*most=*/1 << 24);
  const SidecarObject sidecar(json, path.string(), "");
  if (sidecar.text("format") != "lmhead-dataset") sidecar.reject("format", "\"lmhead-dataset\"", json["format"]);
  sidecar.integer("version", 1, 1);
  const std::int64_t vocab_size = sidecar.integer("vocab_size", 1, std::int64_t(1) << 32);
  const std::string type_name = sidecar.text("token_type");
  if (type_name != "uint16" && type_name != "uint32")
    sidecar.reject("token_type", "\"uint16\" or \"uint32\"", json["token_type"]);
  const TokenType type = type_name == "uint16" ? TokenType::kUint16 : TokenType::kUint32;
  std::optional<std::int64_t> end_of_document;
  if (!sidecar.is_null("end_of_document")) end_of_document = sidecar.integer("end_of_document", 0, vocab_size - 1);
  std::optional<fs::path> tokenizer;
  if (!sidecar.is_null("tokenizer")) tokenizer = sidecar.file("tokenizer");
  require(model_vocab_size.value_or(vocab_size) >= vocab_size, "data", "model.vocab_size must be at least the ",
          vocab_size, " of ", path.string(), ", got ", model_vocab_size.value_or(0));
  const SidecarObject splits = sidecar.object("splits");
  return {model_vocab_size.value_or(vocab_size),
          end_of_document,
          std::move(tokenizer),
          sidecar.text("tokenizer_hash"),
          sidecar.text("content_hash"),
          read_split(splits.object("train"), type, vocab_size),
          read_split(splits.object("validation"), type, vocab_size)};
}

/// Whether `stem` is NAME_split or NAME_split_DIGITS.
bool names_split(std::string stem, const std::string& split) {
  const std::size_t digits = stem.find_last_not_of("0123456789");
  if (digits != std::string::npos && digits + 1 < stem.size() && stem[digits] == '_') stem.resize(digits);
  return stem.ends_with("_" + split);
}

TokenSequence open_llm_c_split(const fs::path& folder, const std::string& split, std::int64_t vocab_size) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".bin" && names_split(entry.path().stem().string(), split))
      paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<TokenShard> shards;
  for (const fs::path& path : paths) shards.push_back(TokenShard::open_llm_c(path, vocab_size));
  require(!shards.empty(), "data", folder.string(),
          " must hold dataset.json, or train.bin and val.bin, or NAME_train.bin",
          " and NAME_val.bin, got no file of the split ", split);
  return TokenSequence(std::move(shards));
}

/// Names files without reading all of a large one: up to 256 evenly spaced blocks of 64 KiB, first and last
/// included.
std::uint64_t fingerprint(const TokenSequence& tokens, std::uint64_t seed) {
  constexpr std::size_t kBlock = 1 << 16, kBlocks = 256;
  std::uint64_t hash = seed;
  const auto add = [&](std::string_view text) {
    hash = hash_text(std::to_string(hash) + ":" + std::to_string(hash_text(text)));
  };
  for (const TokenShard& shard : tokens.shards()) {
    const std::string_view bytes = shard.bytes();
    add(std::to_string(bytes.size()));
    if (bytes.size() <= kBlock * kBlocks) {
      add(bytes);
      continue;
    }
    const std::size_t span = bytes.size() - kBlock;
    for (std::size_t block = 0; block < kBlocks; ++block)  // in two parts: the product may exceed 64 bits
      add(bytes.substr(span / (kBlocks - 1) * block + span % (kBlocks - 1) * block / (kBlocks - 1), kBlock));
  }
  return hash;
}

Dataset without_sidecar(const fs::path& folder, std::optional<std::int64_t> model_vocab_size) {
  const bool headerless = fs::exists(folder / "train.bin") || fs::exists(folder / "val.bin");
  const auto open = [&](const char* split, std::int64_t vocab_size) {
    if (!headerless) return open_llm_c_split(folder, split, vocab_size);
    return TokenSequence(
        {TokenShard::open_headerless(folder / (split + std::string(".bin")), TokenType::kUint16, vocab_size)});
  };
  const std::int64_t vocab_size = model_vocab_size.value_or(0);
  TokenSequence train = open("train", vocab_size), validation = open("val", vocab_size);
  require(model_vocab_size.has_value(), "data",
          "model.vocab_size must be given where the data has no dataset.json, got ", "none for ", folder.string());
  const std::uint64_t hash = fingerprint(validation, fingerprint(train, 0));
  return {vocab_size,
          std::nullopt,
          std::nullopt,
          "",
          "sampled-" + std::to_string(hash),
          {std::move(train), std::nullopt},
          {std::move(validation), std::nullopt}};
}

}  // namespace

Dataset open_dataset(const fs::path& folder, std::optional<std::int64_t> vocab_size) {
  std::error_code error;
  require(fs::is_directory(folder, error), "data", "path must be the folder of a dataset, got \"", folder.string(),
          "\"");
  require(vocab_size.value_or(1) >= 1, "data", "model.vocab_size must be at least 1, got ", vocab_size.value_or(1));
  if (fs::exists(folder / "dataset.json")) return read_sidecar(folder / "dataset.json", vocab_size);
  return without_sidecar(folder, vocab_size);
}

}  // namespace lmhead
