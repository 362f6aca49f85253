// What heads that look back share: which positions a row sees, and products with something that stands at each.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "lmhead/heads/head_input.h"

namespace lmhead {

/// Which of the T positions of its sequence each of the M rows asked for does not see, [M, T] bool: later ones, those
/// of other documents and those `band` or more places back. Its own it always sees.
at::Tensor unseen_positions(const HeadInput& input, std::optional<std::int64_t> band = std::nullopt);

/// The input ids of each row's sequence, [M, T].
at::Tensor tokens_of_rows(const HeadInput& input);

/// Products of `queries` [M, d], of the rows asked for, with `keys` [N, d] of every position of each row's sequence:
/// [M, T]. One product a sequence.
at::Tensor context_products(const HeadInput& input, const at::Tensor& queries, const at::Tensor& keys);

/// The words of a context, each once.
struct ContextWords {
  at::Tensor repeats;                  // [B, T] bool: the word stands further in front in the same document
  std::vector<std::int64_t> begin{0};  // [M + 1]: the ids that row m sees are words[begin[m]] to words[begin[m + 1]]
  std::vector<std::int64_t> words;     // ascending in each row
};
ContextWords context_words(const HeadInput& input);

}  // namespace lmhead
