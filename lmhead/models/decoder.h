// One decoder described by a specification. It ends at the features after the final norm; a head owns the rest.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/models/decoder_options.h"

namespace lmhead {

class Decoder {
 public:
  /// `vocab_size` rows of embedding; initial values depend on the factory's seed and the parameters' names alone.
  Decoder(const DecoderOptions& options, std::int64_t vocab_size, const ParameterFactory& factory);

  /// Features [B T, D] after the final norm for ids `tokens` [B, T]; where `layers` is given it receives the features [B T, D]
  /// after every block. Mixed precision: products in the parameters' working type, the residual stream in float32.
  at::Tensor forward(const at::Tensor& tokens, std::vector<at::Tensor>* layers = nullptr) const;

  const ParameterList& parameters() const { return parameters_; }
  const ParameterPtr& embedding() const { return embedding_; }
  const DecoderOptions& options() const { return options_; }

 private:
  struct Norm {
    ParameterPtr weight, bias;  // bias for LayerNorm alone
  };
  struct Projection {
    ParameterPtr weight, bias;  // bias may be null
  };
  struct Block {
    Norm attention_norm, mlp_norm;
    Projection query_key_value, attention_output, mlp_input, mlp_output;
    ParameterPtr query_norm, key_norm;
  };
  class Builder;

  at::Tensor normalise(const Norm& norm, const at::Tensor& input, at::ScalarType type) const;
  at::Tensor attend(const Block& block, const at::Tensor& input, std::int64_t batch, std::int64_t length) const;
  at::Tensor transform(const Block& block, const at::Tensor& input) const;
  void prepare_rotation(std::int64_t length) const;

  DecoderOptions options_;
  ParameterPtr embedding_, position_embedding_;
  std::vector<Block> blocks_;
  Norm final_norm_;
  ParameterList parameters_;
  mutable at::Tensor cosine_, sine_;  // [length, head_dim / 2], grown on demand
};

}  // namespace lmhead
