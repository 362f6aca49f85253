// The sidecar of a dataset, dataset.json: what it says, before any file that it names is opened.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "lmhead/data/token_shards.h"

namespace lmhead {

struct SidecarSplit {
  std::filesystem::path file;
  std::int64_t tokens, bytes, documents;
  std::string sha256;  // of the file
};

/// The keys of docs/files.md.
struct Sidecar {
  std::filesystem::path path;
  std::int64_t vocab_size;
  TokenType token_type;
  std::optional<std::filesystem::path> tokenizer;
  std::string tokenizer_hash;
  std::optional<std::int64_t> end_of_document;
  SidecarSplit train, validation;
  std::string content_hash;
};

/// The sidecar in a folder, or nothing where there is none. Throws, naming file and key, on a missing key, a wrong type
/// or a contradiction.
std::optional<Sidecar> find_sidecar(const std::filesystem::path& folder);

/// Opens the file of a split for `vocab_size` ids. Throws where its size is not that of the split's tokens, and where
/// the user has `told` another type (by `option`) than the sidecar has.
TokenShard open_split(const Sidecar& sidecar, const SidecarSplit& split, std::int64_t vocab_size,
                      std::optional<TokenType> told, const char* option);

}  // namespace lmhead
