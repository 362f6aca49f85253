// GPT-2: learned positions, LayerNorm, biases everywhere, matrices stored transposed.
#include <cmath>

#include "lmhead/models/family_parts.h"

namespace lmhead {

FamilyModel describe_gpt2(const HfConfiguration& c) {
  for (const char* key : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}) {
    if (c.boolean(key, false)) c.refuse(key, "false");
  }
  FamilyModel model;
  DecoderSpecification& s = model.decoder;
  s.vocab_size = c.size("vocab_size");
  s.hidden_size = c.size("n_embd");
  s.intermediate_size = c.size("n_inner", 4 * s.hidden_size);
  s.num_attention_heads = s.num_key_value_heads = c.size("n_head");
  if (s.hidden_size % s.num_attention_heads != 0) c.refuse("n_head", "a divisor of n_embd");
  s.head_dim = s.hidden_size / s.num_attention_heads;
  s.layers.resize(read_layers(c, "n_layer"));
  s.position_embeddings = c.size("n_positions", 1024);
  s.norm = NormKind::kLayer;
  s.norm_eps = c.positive("layer_norm_epsilon", 1e-5);
  s.attention_scale = c.boolean("scale_attn_weights", true) ? 1 / std::sqrt(double(s.head_dim)) : 1;
  s.activation = read_activation(c, "activation_function", "gelu_new");
  s.gated = false;
  s.query_key_value_bias = s.attention_output_bias = s.mlp_bias = true;

  model.tie_word_embeddings = c.boolean("tie_word_embeddings", true);
  model.body_prefixes = {"transformer.", ""};
  model.layer_prefix = "h.";
  model.rules = {{"embed_tokens", "wte"},
                 {"embed_positions", "wpe"},
                 {"norm", "ln_f"},
                 {"input_layernorm", "ln_1"},
                 {"post_attention_layernorm", "ln_2"},
                 {"self_attn.qkv_proj", "attn.c_attn", MatrixLayout::kTransposed},
                 {"self_attn.o_proj", "attn.c_proj", MatrixLayout::kTransposed},
                 {"mlp.up_proj", "mlp.c_fc", MatrixLayout::kTransposed},
                 {"mlp.down_proj", "mlp.c_proj", MatrixLayout::kTransposed}};
  return model;
}

}  // namespace lmhead
