#include "lmhead/data/dataset.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"
#include "lmhead/data/sidecar.h"
#include "lmhead/data/token_file.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOption = "data.token_type";

Dataset with_sidecar(const Sidecar& sidecar, std::optional<std::int64_t> model_vocab_size,
                     std::optional<TokenType> told) {
  require(model_vocab_size.value_or(sidecar.vocab_size) >= sidecar.vocab_size, "data",
          "model.vocab_size must be at least the ", sidecar.vocab_size, " of ", sidecar.path.string(), ", got ",
          model_vocab_size.value_or(0));
  const auto open = [&](const SidecarSplit& split) {
    return DatasetSplit{TokenSequence({open_split(sidecar, split, sidecar.vocab_size, told, kOption)}),
                        double(split.bytes) / double(split.tokens)};
  };
  return {model_vocab_size.value_or(sidecar.vocab_size),
          sidecar.end_of_document,
          sidecar.tokenizer,
          sidecar.tokenizer_hash,
          sidecar.content_hash,
          open(sidecar.train),
          open(sidecar.validation)};
}

/// Whether `stem` is NAME_split or NAME_split_DIGITS.
bool names_split(std::string stem, const std::string& split) {
  const std::size_t digits = stem.find_last_not_of("0123456789");
  if (digits != std::string::npos && digits + 1 < stem.size() && stem[digits] == '_') stem.resize(digits);
  return stem.ends_with("_" + split);
}

std::vector<fs::path> llm_c_files(const fs::path& folder, const std::string& split) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().extension() == ".bin" && names_split(entry->path().stem().string(), split))
      paths.push_back(entry->path());
  require(!error, "data", folder.string(), " must be readable, got: ", error.message());
  std::sort(paths.begin(), paths.end());
  require(!paths.empty(), "data", folder.string(),
          " must hold dataset.json, or train.bin and val.bin, or NAME_train.bin",
          " and NAME_val.bin, got no file of the split ", split);
  return paths;
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
    const std::size_t size = shard.file().size();
    add(std::to_string(size));
    const std::size_t length = size <= kBlock * kBlocks ? size : kBlock;
    const std::size_t span = size - length;
    std::string block(length, '\0');
    for (std::size_t index = 0; index < (span == 0 ? 1 : kBlocks);
         ++index) {  // in two parts: the product may exceed 64 bits
      shard.file().read_at(span / (kBlocks - 1) * index + span % (kBlocks - 1) * index / (kBlocks - 1), block.data(),
                           length);
      add(block);
    }
  }
  return hash;
}

Dataset without_sidecar(const fs::path& folder, std::optional<std::int64_t> model_vocab_size,
                        std::optional<TokenType> told) {
  const auto is_there = [&](const char* name) {
    std::error_code ignored;
    return fs::symlink_status(folder / name, ignored).type() != fs::file_type::not_found;
  };
  const bool is_nano_gpt = is_there("train.bin") || is_there("val.bin");
  const auto files = [&](const std::string& split) {
    return is_nano_gpt ? std::vector{folder / (split + ".bin")} : llm_c_files(folder, split);
  };
  const auto train_files = files("train"), validation_files = files("val");
  require(model_vocab_size.has_value(), "data",
          "model.vocab_size must be given where the data has no dataset.json, got ", "none for ", folder.string());
  const std::int64_t vocab_size = model_vocab_size.value_or(0);
  const auto open = [&](const std::vector<fs::path>& paths) {
    std::vector<TokenShard> shards;
    for (const fs::path& path : paths) shards.push_back(open_token_file({path, vocab_size, told, kOption}));
    return TokenSequence(std::move(shards));
  };
  TokenSequence train = open(train_files), validation = open(validation_files);
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

Dataset open_dataset(const fs::path& folder, std::optional<std::int64_t> vocab_size, std::optional<TokenType> told) {
  std::error_code error;
  require(fs::is_directory(folder, error), "data", "path must be the folder of a dataset, got \"", folder.string(),
          "\"");
  require(vocab_size.value_or(1) >= 1, "data", "model.vocab_size must be at least 1, got ", vocab_size.value_or(1));
  if (const auto sidecar = find_sidecar(folder)) return with_sidecar(*sidecar, vocab_size, told);
  return without_sidecar(folder, vocab_size, told);
}

}  // namespace lmhead
