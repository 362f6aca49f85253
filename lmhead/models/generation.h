// Text that a model goes on with: one token drawn after another.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "lmhead/base/random.h"
#include "lmhead/heads/lm_head.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

/// How a token is chosen, under the names of Hugging Face's generation configuration.
struct SamplingOptions {
  double temperature = 1;  // divides the logits; 0: the likeliest token, of equals the lowest id
  std::int64_t top_k = 0;  // only the k likeliest tokens; 0: all
  double top_p = 1;        // of those, only the fewest whose probabilities reach p together; 1: all
  /// Throws where a value is out of its range.
  void check() const;
};

/// The next token's id for `logits` [V]; one draw of `stream`, none where the temperature is 0. Computed in
/// float64. Throws where logits are not finite.
std::int64_t choose_token(const at::Tensor& logits, const SamplingOptions& options, RandomStream& stream);

struct GenerationOptions {
  SamplingOptions sampling;
  std::int64_t max_new_tokens = 100;
  std::uint64_t seed = 0;                       // of the stream "sample"
  std::vector<std::int64_t> end_tokens;         // the first of these is the last token that is given
  std::optional<std::int64_t> end_of_document;  // what stands before it in a prompt is another document to the head
};

/// The tokens that follow `prompt`, without it; each goes to `on_token` too as soon as it is known, which may
/// return false to stop. Ends early where a learned position table is used up. Cost: one token's pass a token,
/// for keys and values are kept; a head that looks at tokens is given the features of the whole context too. Throws
/// on an empty prompt and on ids outside the vocabulary.
std::vector<std::int64_t> generate(const Decoder& decoder, const LmHead& head, const std::vector<std::int64_t>& prompt,
                                   const GenerationOptions& options,
                                   const std::function<bool(std::int64_t)>& on_token = {});

}  // namespace lmhead
