// A dataset on disk: its two splits of token ids and what is known of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "lmhead/data/token_shards.h"

namespace lmhead {

struct DatasetSplit {
  TokenSequence tokens;
  /// UTF-8 bytes of the split's text over its tokens, end-of-document tokens counted; absent where bytes are
  /// not known.
  std::optional<double> bytes_per_token;
};

struct Dataset {
  /// What a model needs at least. Every id that is read is below the dataset's own, which a model may exceed.
  std::int64_t vocab_size;
  std::optional<std::int64_t> end_of_document;
  /// The tokenizer's file; absent for plain bytes and where there is no sidecar.
  std::optional<std::filesystem::path> tokenizer;
  /// SHA-256 of the tokenizer's file, "bytes", or empty where there is no sidecar.
  std::string tokenizer_hash;
  /// Names the dataset; where there is no sidecar, by the sizes and evenly spaced blocks of its files.
  std::string content_hash;
  DatasetSplit train, validation;
};

/// Opens a folder that holds one of
///  - dataset.json and the files that it names (docs/files.md);
///  - nanoGPT's train.bin and val.bin, with llm.c's header or without one;
///  - NAME_train.bin and NAME_val.bin, or shards NAME_train_000001.bin, read in the order of names.
/// `vocab_size` is the model's, where it is known: it may exceed the dataset's, and it is needed where there
/// is no sidecar. `told` is how ids are stored, where the user has said so; else sidecar, header and vocabulary say it
/// (token_file.h). Throws, naming file and key, on a sidecar with a missing key, a wrong type or a
/// contradiction, and on files whose sizes are not those of the token counts. Ids are checked when they are
/// read, SHA-256 sums are not (recorded_files.h).
Dataset open_dataset(const std::filesystem::path& folder, std::optional<std::int64_t> vocab_size = std::nullopt,
                     std::optional<TokenType> told = std::nullopt);

}  // namespace lmhead
