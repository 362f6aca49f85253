// Token ids to measure on, and the windows that they are cut into.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "lmhead/data/token_shards.h"

namespace lmhead {

/// One sequence of ids and what is known of it.
struct MeasuredTokens {
  TokenShard ids;
  std::optional<TokenShard> lengths;          // UTF-8 bytes of the text behind each token
  std::optional<double> bytes_per_token;      // the same on average, where `lengths` are not known
  std::vector<std::int64_t> document_tokens;  // of each document; empty: `end_of_document` tells, or nothing does
  std::optional<std::int64_t> end_of_document;
  std::optional<std::int64_t> beginning;  // the token that opens texts, where it was asked for
  bool opens_windows = false;             // whether it stands before every window, and not among the ids
};

/// Opens a file of ids for a head of `vocab_size` as training does: one that a dataset.json beside it describes, or any
/// other (token_file.h), `told` being what the user says of it. Without a sidecar documents end at `end_of_document`.
/// Ids are checked against the head when they are read, whatever vocabulary the dataset has.
MeasuredTokens open_measured_tokens(const std::filesystem::path& file, std::int64_t vocab_size,
                                    std::optional<std::int64_t> end_of_document,
                                    std::optional<TokenType> told = std::nullopt);

/// Opens what `lmhead-tokenize` wrote (docs/files.md): uint32 ids, their lengths in bytes, and documents, which
/// windows never cross. Throws where an id is not below the head's, naming the tokenizer.
MeasuredTokens open_tokenized_text(const std::filesystem::path& folder, std::int64_t vocab_size);

struct WindowOptions {
  std::int64_t sequence_length = 1024;
  std::int64_t max_tokens = 0;  // targets; 0: all
  bool by_document = false;
  std::int64_t batch_tokens = 4096;  // inputs of a batch, padding included; a longer window is a batch by itself
};

/// Windows side by side; short ones are padded at their ends, where a causal model cannot see it.
struct WindowBatch {
  at::Tensor tokens;            // [B, T] inputs, 0 in the padding
  at::Tensor targets;           // [B T], -100 in the padding
  at::Tensor documents;         // [B T] of the target; undefined where documents are not known
  at::Tensor positions;         // [B T] tokens of context before the input
  std::optional<double> bytes;  // UTF-8 bytes of the targets
  std::int64_t scored = 0;      // targets
};

/// Cuts consecutive windows that do not overlap: inputs [s, s + T) with the next tokens as targets, then from s + T.
/// The first token of the file, and with `by_document` or known documents that of each, is never a target; where
/// windows are opened by a token, it is an input of each and every token a target. Memory: a batch.
class WindowReader {
 public:
  WindowReader(const MeasuredTokens& tokens, const WindowOptions& options);
  ~WindowReader();
  /// The next batch, or nothing at the end. Throws on an id that is not below the vocabulary size.
  std::optional<WindowBatch> next();
  /// How many targets there will be, at most.
  std::int64_t most_targets() const { return most_targets_; }

 private:
  struct Window {
    std::int64_t begin, length, document;
  };
  bool next_segment();
  std::optional<Window> next_window();
  void add(const Window& window, std::int64_t row, WindowBatch& batch, double& bytes);

  const MeasuredTokens& tokens_;
  WindowOptions options_;
  bool segments_are_documents_;
  std::int64_t most_targets_, left_;
  std::int64_t position_ = 0, segment_end_ = 0, segment_ = -1, ends_seen_ = 0;
  std::optional<Window> held_;
};

}  // namespace lmhead
