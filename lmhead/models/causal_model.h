// A decoder and a head, and their parameters together.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/heads/lm_head.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

class CausalModel {
 public:
  /// `seed` decides every initial value; the same seed gives bodies that are equal under any head.
  CausalModel(const DecoderOptions& options, const HeadSpecification& head, std::int64_t vocab_size,
              std::uint64_t seed);
  /// With the parameters of `source`. `token_counts` and `token_bytes`, which may be empty, say how often an id occurs
  /// in the training data and what text it stands for; they are called where a head asks. Of several `word_processes`
  /// each has the rows of its words of `word_rows`, and `source` gives these.
  CausalModel(const DecoderOptions& options, const HeadSpecification& head, std::int64_t vocab_size,
              const ParameterSource& source, const std::function<at::Tensor()>& token_counts = {},
              const std::function<std::vector<std::string>()>& token_bytes = {}, const Processes& word_processes = {});

  Decoder decoder;
  std::unique_ptr<LmHead> head;

  /// Body first, then what the head owns.
  ParameterList parameters() const;
  /// Those with a row a word: the embedding, and what the head has of that kind (LmHead::word_rows).
  ParameterList word_rows() const;
};

/// One pass of `decoder` over `tokens` [B, T] with all that `head` needs of it. Documents end at `end_of_document`;
/// `layers`, where given, receives the features after every block.
HeadInput run_decoder(const Decoder& decoder, const LmHead& head, const at::Tensor& tokens,
                      std::optional<std::int64_t> end_of_document = std::nullopt,
                      std::vector<at::Tensor>* layers = nullptr);

/// The head's matrix [V, D] of a checkpoint's model.safetensors, rows by id: its own, or the embedding where there is
/// none. Throws, naming the file, where it has neither.
at::Tensor read_trained_matrix(const std::string& path);

/// Every parameter as outsiders know it: one tensor a name, fused projections cut apart (as views of the master).
std::vector<std::pair<std::string, at::Tensor>> named_tensors(const ParameterList& parameters);

}  // namespace lmhead
