// Keys and values of the tokens that a decoder has seen, so that the next token costs one token's work.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace lmhead {

/// Memory: 2 B S K d numbers a layer for S tokens, at most twice that while it grows.
class KeyValueCache {
 public:
  struct KeysAndValues {
    at::Tensor keys, values;  // [B, S, K, d], views that stay valid until the next call
  };

  /// Tokens seen so far.
  std::int64_t length() const { return length_; }
  /// Puts `keys` and `values` [B, T, K, d] of `layer` behind those of earlier tokens; all of that layer.
  KeysAndValues append(std::size_t layer, const at::Tensor& keys, const at::Tensor& values);
  /// Ends a pass in which every layer got `tokens` tokens.
  void advance(std::int64_t tokens) { length_ += tokens; }

 private:
  std::vector<KeysAndValues> layers_;  // [B, capacity, K, d]
  std::int64_t length_ = 0;
};

}  // namespace lmhead
