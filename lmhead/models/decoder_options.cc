#include "lmhead/models/decoder_options.h"

#include <cmath>

#include "lmhead/base/error.h"

namespace lmhead {

namespace {
// Beyond any model, and small enough that no product of sizes leaves 64 bits.
constexpr double kMostWidth = 1 << 20, kMostInnerWidth = 1 << 24, kMostLayers = 4096, kMostTokens = 2147483647;
}  // namespace

void DecoderOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("hidden_size", hidden_size, "D, the width of the features", between(1, kMostWidth));
  visitor.field("intermediate_size", intermediate_size,
                "inner width of the MLP; null: 4 D for gelu, 8/3 D rounded up to a multiple of 4 for swiglu",
                between(1, kMostInnerWidth));
  visitor.field("num_hidden_layers", num_hidden_layers,
                "decoder blocks; with 0 and no norm the model is an embedding and a head", between(0, kMostLayers));
  visitor.field("num_attention_heads", num_attention_heads, "query heads", between(1, kMostWidth));
  visitor.field("num_key_value_heads", num_key_value_heads, "key and value heads; null: as many as query heads",
                between(1, kMostWidth));
  visitor.field("head_dim", head_dim, "width of a head; null: hidden_size / num_attention_heads",
                between(1, kMostWidth));
  visitor.field("vocab_size", vocab_size, "V; null: the dataset's", between(1, kMostTokens));
  visitor.field("norm", norm, "normalisation of the features", {"rmsnorm", "layernorm", "none"});
  visitor.field("norm_eps", norm_eps, "added to the mean square or variance", above(0));
  visitor.field("norm_position", norm_position,
                "pre: x + f(norm(x)); post: norm(x + f(x)), no final norm; output: x + norm(f(x))",
                {"pre", "post", "output"});
  visitor.field("position", position, "how positions enter", {"rotary", "learned", "none"});
  visitor.field("rope_theta", rope_theta, "base of the rotary frequencies", above(0));
  visitor.field("max_position_embeddings", max_position_embeddings, "rows of the learned position table",
                between(1, kMostInnerWidth));
  visitor.field("activation", activation, "of the MLP; gelu is the tanh form of GPT-2", {"swiglu", "gelu"});
  visitor.field("attention_bias", attention_bias, "biases on the four attention projections");
  visitor.field("mlp_bias", mlp_bias, "biases on the MLP's projections");
  visitor.field("qk_norm", qk_norm, "RMSNorm of every query and key head before positions enter");
  visitor.field("tie_word_embeddings", tie_word_embeddings, "the head uses the embedding's matrix");
  visitor.field(
      "initializer", initializer,
      "llama: normal(initializer_range) everywhere; gpt2: the same, residual projections divided by sqrt(2 layers)",
      {"llama", "gpt2"});
  visitor.field("initializer_range", initializer_range, "standard deviation of initial matrices", above(0));
}

std::int64_t DecoderOptions::resolved_intermediate_size() const {
  if (intermediate_size) return *intermediate_size;
  return activation == "gelu" ? 4 * hidden_size : (8 * hidden_size + 11) / 12 * 4;
}

void DecoderOptions::check() const {
  require(head_dim || hidden_size % num_attention_heads == 0, "model", "hidden_size ", hidden_size,
          " must be a multiple of num_attention_heads ", num_attention_heads, " where head_dim is null");
  require(num_attention_heads % resolved_num_key_value_heads() == 0, "model",
          "num_attention_heads must be a multiple of num_key_value_heads ", resolved_num_key_value_heads(), ", got ",
          num_attention_heads);
  require(position != "rotary" || resolved_head_dim() % 2 == 0, "model",
          "head_dim must be even for rotary positions, got ", resolved_head_dim());
}

DecoderSpecification DecoderOptions::specification(std::int64_t vocab_size) const {
  check();
  DecoderSpecification s;
  s.vocab_size = vocab_size;
  s.hidden_size = hidden_size;
  s.intermediate_size = resolved_intermediate_size();
  s.num_attention_heads = num_attention_heads;
  s.num_key_value_heads = resolved_num_key_value_heads();
  s.head_dim = resolved_head_dim();
  s.layers.resize(std::size_t(num_hidden_layers));
  if (position == "learned") s.position_embeddings = max_position_embeddings;
  if (position == "rotary") s.rotaries.push_back({.width = s.head_dim, .theta = rope_theta});
  s.norm = norm == "layernorm" ? NormKind::kLayer : norm == "none" ? NormKind::kNone : NormKind::kRms;
  s.norm_eps = norm_eps;
  s.norm_position = norm_position == "pre"    ? NormPosition::kBefore
                    : norm_position == "post" ? NormPosition::kAfterSum
                                              : NormPosition::kAfter;
  s.qk_norm = qk_norm ? QueryKeyNorm::kHead : QueryKeyNorm::kNone;
  s.attention_scale = 1 / std::sqrt(double(s.head_dim));
  s.gated = activation == "swiglu";
  s.activation = s.gated ? Activation::kSilu : Activation::kGeluTanh;
  s.query_key_value_bias = s.attention_output_bias = attention_bias;
  s.mlp_bias = mlp_bias;
  s.initializer_range = s.residual_initializer_range = initializer_range;
  if (initializer == "gpt2") s.residual_initializer_range /= std::sqrt(2.0 * double(num_hidden_layers));
  return s;
}

}  // namespace lmhead
