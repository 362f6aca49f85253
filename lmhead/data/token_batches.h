// Batches of windows over a dataset's tokens.
#pragma once

#include "lmhead/data/batches.h"
#include "lmhead/data/dataset.h"

namespace lmhead {

/// Cuts a split into non-overlapping windows of T inputs, each with the T tokens one further as targets,
/// across document boundaries. An epoch of training visits every window once, in an order and from an offset
/// in [0, T) that change from epoch to epoch; of the tokens at the two ends, fewer than 2 T are left out of
/// an epoch. Validation is the first `validation_tokens` of its split, in whole windows, at least one.
class TokenBatches : public BatchSource {
 public:
  /// Throws where a split has fewer than T + 1 tokens.
  TokenBatches(Dataset dataset, const DataOptions& options, std::uint64_t seed);

  Batch training_sequences(std::int64_t first, std::int64_t count) const override;
  std::optional<double> validation_bytes_per_token() const override { return dataset_.validation.bytes_per_token; }
  std::optional<at::Tensor> token_counts() const override;
  std::optional<std::vector<std::string>> token_bytes() const override;
  std::optional<std::int64_t> end_of_document() const override { return dataset_.end_of_document; }
  std::int64_t vocab_size() const override { return dataset_.vocab_size; }
  std::string content_hash() const override { return dataset_.content_hash; }
  std::string tokenizer_hash() const override { return dataset_.tokenizer_hash; }

  const Dataset& dataset() const { return dataset_; }
  std::int64_t windows_per_epoch() const { return windows_; }

 private:
  std::int64_t validation_sequence_count() const override { return validation_windows_; }
  Batch validation_sequences(std::int64_t first, std::int64_t count) const override;

  Dataset dataset_;
  std::uint64_t seed_;
  std::int64_t windows_, largest_offset_, validation_windows_;
};

}  // namespace lmhead
