#include "lmhead/data/token_batches.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"
#include "lmhead/data/permutation.h"
#include "lmhead/data/token_bytes.h"

namespace lmhead {
namespace {

constexpr std::int64_t kCountedTokens = 1 << 24;  // tens of milliseconds
constexpr std::int64_t kCountedAtOnce = 1 << 16;

/// Collects windows of T + 1 tokens into a batch.
class BatchBuilder {
 public:
  BatchBuilder(std::int64_t sequences, std::int64_t length)
      : batch_{at::empty({sequences, length}, at::kLong), at::empty({sequences * length}, at::kLong)},
        window_(std::size_t(length) + 1),
        tokens_(batch_.tokens.mutable_data_ptr<std::int64_t>()),
        targets_(batch_.targets.mutable_data_ptr<std::int64_t>()) {}

  void add(const TokenSequence& split, std::int64_t begin) {
    split.copy(begin, std::int64_t(window_.size()), window_.data());
    tokens_ = std::copy(window_.begin(), window_.end() - 1, tokens_);
    targets_ = std::copy(window_.begin() + 1, window_.end(), targets_);
  }
  Batch take() { return std::move(batch_); }

 private:
  Batch batch_;
  std::vector<std::int64_t> window_;
  std::int64_t* tokens_;
  std::int64_t* targets_;
};

void require_one_window(const TokenSequence& split, const char* name, std::int64_t length) {
  require(split.size() > length, "data", "the ", name, " split must have at least ", length + 1,
          " tokens for one sequence of ", length, ", got ", split.size(), " in ",
          split.shards().front().path().string());
}

}  // namespace

TokenBatches::TokenBatches(Dataset dataset, const DataOptions& options, std::uint64_t seed)
    : BatchSource(options), dataset_(std::move(dataset)), seed_(seed) {
  const std::int64_t length = options.sequence_length;
  require_one_window(dataset_.train.tokens, "train", length);
  require_one_window(dataset_.validation.tokens, "validation", length);
  // As many windows as fit behind the largest offset, so that every epoch has the same number.
  const std::int64_t size = dataset_.train.tokens.size();
  windows_ = std::max<std::int64_t>(1, (options.shift_windows ? size - length : size - 1) / length);
  largest_offset_ = options.shift_windows ? std::min(length - 1, size - 1 - windows_ * length) : 0;
  validation_windows_ =
      std::max<std::int64_t>(1, std::min(options.validation_tokens, dataset_.validation.tokens.size() - 1) / length);
}

Batch TokenBatches::training_sequences(std::int64_t first, std::int64_t count) const {
  require(first >= 0 && count >= 0 && first <= INT64_MAX - count, "data",
          "training sequences must be counted from 0, got ", count, " from ", first);
  const std::int64_t length = options().sequence_length;
  BatchBuilder builder(count, length);
  for (std::int64_t sequence = first; sequence < first + count;) {
    const std::int64_t epoch = sequence / windows_;
    const std::int64_t end = std::min(first + count, (epoch + 1) * windows_);
    const auto offset = std::int64_t(
        RandomStream(seed_, "data.offset", std::uint64_t(epoch)).below(std::uint64_t(largest_offset_) + 1));
    const KeyedPermutation order(seed_, "data.order", std::uint64_t(epoch), std::uint64_t(windows_));
    for (; sequence < end; ++sequence)
      builder.add(dataset_.train.tokens, offset + std::int64_t(order(std::uint64_t(sequence % windows_))) * length);
  }
  return builder.take();
}

std::optional<at::Tensor> TokenBatches::token_counts() const {
  at::Tensor counts = at::zeros({dataset_.vocab_size}, at::kLong);
  auto* count = counts.mutable_data_ptr<std::int64_t>();
  const std::int64_t end = std::min(dataset_.train.tokens.size(), kCountedTokens);
  std::vector<std::int64_t> some(kCountedAtOnce);
  for (std::int64_t begin = 0; begin < end; begin += kCountedAtOnce) {
    const std::int64_t length = std::min(kCountedAtOnce, end - begin);
    dataset_.train.tokens.copy(begin, length, some.data());
    for (std::int64_t index = 0; index < length; ++index) ++count[some[std::size_t(index)]];
  }
  return counts;
}

std::optional<std::vector<std::string>> TokenBatches::token_bytes() const {
  if (dataset_.tokenizer) return token_bytes_of(*dataset_.tokenizer);
  if (dataset_.tokenizer_hash == "bytes") return plain_token_bytes(dataset_.vocab_size);
  return std::nullopt;
}

Batch TokenBatches::validation_sequences(std::int64_t first, std::int64_t count) const {
  const std::int64_t length = options().sequence_length;
  BatchBuilder builder(count, length);
  for (std::int64_t window = first; window < first + count; ++window)
    builder.add(dataset_.validation.tokens, window * length);
  return builder.take();
}

}  // namespace lmhead
