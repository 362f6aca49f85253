// Sequences that begin alike, laid out so that what they share is there once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace lmhead {

/// Trees of tokens one behind another, without padding. A token's sequence is its way from the root of its tree.
struct TokenTrees {
  struct Tree {
    std::int64_t first, size;  // its tokens
    at::Tensor visible;        // [size, size] bool: the row's token has the column's on its way; undefined for a chain
    std::int64_t asked_first = 0, asked = 0;  // its part of `rows`
  };
  struct Rows {
    std::int64_t begin, end;
  };
  at::Tensor tokens;     // [N] int64
  at::Tensor positions;  // [N] int64: how many tokens come before it in its sequence
  std::vector<Tree> trees;
  std::int64_t depth = 0;                  // tokens of the longest sequence
  at::Tensor rows;                         // [M] int64: the tokens whose features are asked for; undefined: all
  std::vector<std::vector<Rows>> beside;   // what stands in a tree before a token and is not on its way
  std::vector<std::int64_t> beside_which;  // [N] of these
};

/// Lays sequences out in the order in which they come. Each shares with the one before it what both begin with, where
/// that saves work. Memory: as many numbers as tokens, and the square of a tree's tokens in bytes.
class TokenTreeBuilder {
 public:
  /// `hidden_size` weighs a token's products against the scores that sharing adds.
  explicit TokenTreeBuilder(std::int64_t hidden_size) : hidden_size_(hidden_size) {}

  /// Adds a sequence of one token at least, and returns the row of each of its tokens.
  const std::vector<std::int64_t>& add(const std::vector<std::int64_t>& sequence);
  /// How many rows `add` would make.
  std::int64_t fresh_rows(const std::vector<std::int64_t>& sequence) const;
  std::int64_t rows() const { return std::int64_t(tokens_.size()); }
  /// What was added so far. `rows`, where there are any, are what is asked for: trees in their order.
  TokenTrees build(const std::vector<std::int64_t>& rows = {}) const;

 private:
  std::int64_t shared(const std::vector<std::int64_t>& sequence) const;

  std::int64_t hidden_size_;
  std::vector<std::int64_t> tokens_, parents_;  // of a root: -1
  std::vector<std::int64_t> path_;              // rows of the sequence that came last
  std::int64_t tree_first_ = 0;
};

}  // namespace lmhead
