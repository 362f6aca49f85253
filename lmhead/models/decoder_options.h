// The specification of a decoder: every architecture the project trains is a choice of these.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lmhead/base/options.h"
#include "lmhead/models/decoder_specification.h"

namespace lmhead {

/// Keys follow Hugging Face configurations where those have one.
struct DecoderOptions {
  std::int64_t hidden_size = 256;
  std::optional<std::int64_t> intermediate_size;
  std::int64_t num_hidden_layers = 6;
  std::int64_t num_attention_heads = 4;
  std::optional<std::int64_t> num_key_value_heads;
  std::optional<std::int64_t> head_dim;
  std::optional<std::int64_t> vocab_size;
  std::string norm = "rmsnorm";
  double norm_eps = 1e-5;
  std::string norm_position = "pre";
  std::string position = "rotary";
  double rope_theta = 10000;
  std::int64_t max_position_embeddings = 1024;
  std::string activation = "swiglu";
  bool attention_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  bool tie_word_embeddings = false;
  std::string initializer = "llama";
  double initializer_range = 0.02;

  void visit_fields(FieldVisitor& visitor);

  std::int64_t resolved_intermediate_size() const;
  std::int64_t resolved_num_key_value_heads() const { return num_key_value_heads.value_or(num_attention_heads); }
  std::int64_t resolved_head_dim() const { return head_dim.value_or(hidden_size / num_attention_heads); }
  /// Throws where fields contradict one another.
  void check() const;
  /// What these options amount to for `vocab_size` tokens, checked.
  DecoderSpecification specification(std::int64_t vocab_size) const;
};

}  // namespace lmhead
