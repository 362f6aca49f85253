// SpamLang: sequences of one repeated symbol, the simplest language that a gradient bottleneck could spoil.
#pragma once

#include <vector>

#include "lmhead/data/batches.h"

namespace lmhead {

/// Each training sequence is one symbol, drawn uniformly and repeated T times, with itself as every target
/// (Godey & Artzi 2026, arXiv 2603.10145). With `shuffled_map` the targets are pi(x), pi a random permutation
/// fixed by the seed, so that nothing can be copied (Murugan 2026, arXiv 2608.16671). Sequence k is drawn
/// from its own random stream. Validation is every symbol once where `validation_tokens` / T reaches V, else
/// that many different symbols (at least one), chosen at random by the seed. Memory: 8 V bytes with
/// `shuffled_map`.
class SpamlangBatches : public BatchSource {
 public:
  SpamlangBatches(const DataOptions& options, std::uint64_t seed);

  Batch training_sequences(std::int64_t first, std::int64_t count) const override;
  /// Time: one draw for each sequence of the `steps` steps.
  std::optional<Coverage> coverage(std::int64_t steps) const override;
  std::int64_t vocab_size() const override { return vocab_size_; }
  std::string content_hash() const override;
  std::string tokenizer_hash() const override;

  /// The symbol of a training sequence.
  std::int64_t symbol(std::int64_t sequence) const;
  /// What follows a symbol: itself, or pi(x).
  std::int64_t target_of(std::int64_t symbol) const;

 private:
  std::int64_t validation_sequence_count() const override { return validation_sequences_; }
  Batch validation_sequences(std::int64_t first, std::int64_t count) const override;
  template <class SymbolOf>
  Batch make_batch(std::int64_t first, std::int64_t count, const SymbolOf& symbol_of) const;

  std::uint64_t seed_;
  std::int64_t vocab_size_, validation_sequences_;
  std::vector<std::int64_t> map_;  // pi; empty: the identity
};

}  // namespace lmhead
