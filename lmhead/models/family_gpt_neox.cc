// GPT-NeoX and Pythia: parallel or sequential residual, partial rotary positions, q, k and v interleaved by
// head.
#include <cmath>

#include "lmhead/models/family_parts.h"

namespace lmhead {

FamilyModel describe_gpt_neox(const HfConfiguration& c) {
  FamilyModel model;
  DecoderSpecification& s = model.decoder;
  s = read_llama_like(c);
  s.num_key_value_heads = s.num_attention_heads;
  s.head_dim = s.hidden_size / s.num_attention_heads;
  s.attention_scale = 1 / std::sqrt(double(s.head_dim));
  s.norm = NormKind::kLayer;
  s.norm_eps = c.positive("layer_norm_eps", 1e-5);
  s.parallel_residual = c.boolean("use_parallel_residual", true);
  s.rotaries = {read_rotary(
      c, s.head_dim, {.partial_rotary_factor = 0.25, .theta_key = "rotary_emb_base", .partial_key = "rotary_pct"})};
  s.activation = read_activation(c, "hidden_act", "gelu");
  s.gated = false;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", true);
  s.mlp_bias = true;

  model.tie_word_embeddings = c.boolean("tie_word_embeddings", false);
  model.body_prefixes = {"gpt_neox.", ""};
  model.head_names = {"embed_out.weight"};
  model.rules = {{"embed_tokens", "embed_in"},
                 {"norm", "final_layer_norm"},
                 {"self_attn.qkv_proj", "attention.query_key_value", MatrixLayout::kHeadsInterleaved},
                 {"self_attn.o_proj", "attention.dense"},
                 {"mlp.up_proj", "mlp.dense_h_to_4h"},
                 {"mlp.down_proj", "mlp.dense_4h_to_h"}};
  return model;
}

}  // namespace lmhead
