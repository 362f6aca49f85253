// The one way to open a file of token ids of which nobody has said how they are stored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "lmhead/data/token_shards.h"

namespace lmhead {

/// What "uint16" and "uint32" name, and nothing for "auto".
std::optional<TokenType> token_type_named(const std::string& name);

/// What is known of a file of ids before it is opened.
struct TokenFile {
  std::filesystem::path path;
  std::int64_t vocab_size;        // every id is below it
  std::optional<TokenType> told;  // by the user
  const char* option;             // by which the user tells: "data.token_type"
};

/// Opens one of llm.c's files, known by its magic number, or one without a header: as told, else uint32 where the
/// vocabulary is larger than 65,536 and uint16 where not. Throws where a header is not what was told, and where the ids
/// (16 blocks of 16 KiB, evenly spaced) contradict the type or the vocabulary, saying what to do.
TokenShard open_token_file(const TokenFile& file);

}  // namespace lmhead
