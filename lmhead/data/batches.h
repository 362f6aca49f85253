// Batches addressed by (seed, step): resuming needs no state, and any part of a run can be replayed.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/data/data_options.h"

namespace lmhead {

/// One of the equal parts in which something is shared out; where they cannot be equal, they differ by one.
struct Share {
  std::int64_t index = 0, count = 1;
  /// Where it begins, and the next one, among `all`.
  std::int64_t begin(std::int64_t all) const { return index * all / count; }
  std::int64_t end(std::int64_t all) const { return (index + 1) * all / count; }
};

struct Batch {
  at::Tensor tokens;   // [B, T] int64
  at::Tensor targets;  // [B * T] int64: what each token of `tokens`, row by row, is followed by
};

/// What training has shown of a synthetic language after some steps. The share seen after n draws is expected
/// to be 1 - (1 - 1/V)^n.
struct Coverage {
  std::int64_t draws;       // independent ones: a sequence is one, however long
  double draws_per_symbol;  // draws / V
  double share_seen;        // of the V symbols, those ever drawn
  at::Tensor seen_targets;  // [V] bool, by target id: whether it was ever a training target
};

/// The training stream and the validation set of a run. Every method depends on the options and the seed
/// alone, never on what was asked before; calls from several threads are safe.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  /// Part `micro_batch` of the batch of `step`, both counted from 0: B = batch_size / micro_batches
  /// sequences. The parts of a step are the same sequences whatever `micro_batches` is.
  /// Of that part the sequences of one share, for data parallelism, where each process takes its own.
  Batch training_batch(std::int64_t step, std::int64_t micro_batch = 0, const Share& share = {}) const;
  /// Sequences [first, first + count) of the endless training stream; step s is those from s * batch_size on.
  virtual Batch training_sequences(std::int64_t first, std::int64_t count) const = 0;

  /// Number of validation batches, at least 1.
  std::int64_t validation_batches() const;
  /// Batch `index` of the validation set: B sequences, fewer in the last one.
  Batch validation_batch(std::int64_t index) const;
  /// Targets in all validation batches together.
  std::int64_t validation_targets() const { return validation_sequence_count() * options_.sequence_length; }
  /// UTF-8 bytes per token of the whole validation split, for bits per byte = loss / (ln 2 * this); absent
  /// where bytes are not known.
  virtual std::optional<double> validation_bytes_per_token() const { return std::nullopt; }
  /// How often each id occurs [V] int64 among the first 16 Mi tokens of the training data; absent where tokens are made
  /// up as they are asked for.
  virtual std::optional<at::Tensor> token_counts() const { return std::nullopt; }
  /// The bytes of text that each id stands for, by id, empty where it stands for none; absent where that is not known.
  virtual std::optional<std::vector<std::string>> token_bytes() const { return std::nullopt; }
  /// The id that ends a document, where documents have ends.
  virtual std::optional<std::int64_t> end_of_document() const { return std::nullopt; }
  /// For synthetic languages, what the first `steps` steps showed.
  virtual std::optional<Coverage> coverage(std::int64_t steps) const { return std::nullopt; }

  /// Every id of every batch is below it.
  virtual std::int64_t vocab_size() const = 0;
  /// Names the data; equal for equal content.
  virtual std::string content_hash() const = 0;
  /// Names what gave the ids their meaning; empty where that is not known.
  virtual std::string tokenizer_hash() const = 0;

  const DataOptions& options() const { return options_; }
  std::int64_t tokens_per_step() const { return options_.batch_size * options_.sequence_length; }

 protected:
  explicit BatchSource(const DataOptions& options);

 private:
  virtual std::int64_t validation_sequence_count() const = 0;
  virtual Batch validation_sequences(std::int64_t first, std::int64_t count) const = 0;
  DataOptions options_;
};

/// The source that the options ask for. `seed` is the run's, `vocab_size` the model's where it is known.
/// Throws where the data cannot be read or is not what its sidecar records (recorded_files.h), a split is shorter than
/// one sequence, or `vocab_size` is below the data's.
std::unique_ptr<BatchSource> open_batches(const DataOptions& options, std::uint64_t seed,
                                          std::optional<std::int64_t> vocab_size = std::nullopt);

}  // namespace lmhead
