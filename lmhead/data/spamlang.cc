#include "lmhead/data/spamlang.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"
#include "lmhead/data/permutation.h"

namespace lmhead {

SpamlangBatches::SpamlangBatches(const DataOptions& options, std::uint64_t seed)
    : BatchSource(options), seed_(seed), vocab_size_(options.spamlang.vocab_size) {
  validation_sequences_ = std::clamp<std::int64_t>(options.validation_tokens / options.sequence_length, 1, vocab_size_);
  if (!options.spamlang.shuffled_map) return;
  // Fisher-Yates: every permutation is as likely as any other.
  map_.resize(std::size_t(vocab_size_));
  std::iota(map_.begin(), map_.end(), 0);
  RandomStream stream(seed_, "spamlang.map");
  for (std::size_t last = map_.size() - 1; last > 0; --last) std::swap(map_[last], map_[stream.below(last + 1)]);
}

std::int64_t SpamlangBatches::symbol(std::int64_t sequence) const {
  return std::int64_t(
      RandomStream(seed_, "spamlang.symbol", std::uint64_t(sequence)).below(std::uint64_t(vocab_size_)));
}

std::int64_t SpamlangBatches::target_of(std::int64_t symbol) const {
  return map_.empty() ? symbol : map_[std::size_t(symbol)];
}

template <class SymbolOf>
Batch SpamlangBatches::make_batch(std::int64_t first, std::int64_t count, const SymbolOf& symbol_of) const {
  const std::int64_t length = options().sequence_length;
  Batch batch{at::empty({count, length}, at::kLong), at::empty({count * length}, at::kLong)};
  auto* tokens = batch.tokens.mutable_data_ptr<std::int64_t>();
  auto* targets = batch.targets.mutable_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < count; ++row) {
    const std::int64_t drawn = symbol_of(first + row);
    tokens = std::fill_n(tokens, length, drawn);
    targets = std::fill_n(targets, length, target_of(drawn));
  }
  return batch;
}

Batch SpamlangBatches::training_sequences(std::int64_t first, std::int64_t count) const {
  require(first >= 0 && count >= 0 && first <= INT64_MAX - count, "data",
          "training sequences must be counted from 0, got ", count, " from ", first);
  return make_batch(first, count, [this](std::int64_t sequence) { return symbol(sequence); });
}

Batch SpamlangBatches::validation_sequences(std::int64_t first, std::int64_t count) const {
  if (validation_sequences_ == vocab_size_) return make_batch(first, count, [](std::int64_t symbol) { return symbol; });
  const KeyedPermutation chosen(seed_, "spamlang.validation", 0, std::uint64_t(vocab_size_));
  return make_batch(first, count, [&](std::int64_t index) { return std::int64_t(chosen(std::uint64_t(index))); });
}

std::optional<Coverage> SpamlangBatches::coverage(std::int64_t steps) const {
  require(steps >= 0 && steps <= INT64_MAX / options().batch_size, "data", "steps must be at least 0, got ", steps);
  Coverage coverage{steps * options().batch_size, 0, 0, at::zeros({vocab_size_}, at::kBool)};
  auto* seen = coverage.seen_targets.mutable_data_ptr<bool>();
  std::int64_t distinct = 0;
  for (std::int64_t sequence = 0; sequence < coverage.draws; ++sequence) {
    bool& flag = seen[target_of(symbol(sequence))];
    distinct += !flag;
    flag = true;
  }
  coverage.draws_per_symbol = double(coverage.draws) / double(vocab_size_);
  coverage.share_seen = double(distinct) / double(vocab_size_);
  return coverage;
}

std::string SpamlangBatches::content_hash() const {
  return tokenizer_hash() + (map_.empty() ? "-repeated" : "-shuffled-map");
}

std::string SpamlangBatches::tokenizer_hash() const { return "spamlang-" + std::to_string(vocab_size_); }

}  // namespace lmhead
