// Nemotron: LayerNorm of 1 + weight, partial rotary positions, an MLP of squared ReLU without a gate.
#include "lmhead/models/family_parts.h"

namespace lmhead {

FamilyModel describe_nemotron(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {}, {.partial_rotary_factor = 0.5, .partial_key = "partial_rotary_factor"});
  DecoderSpecification& s = model.decoder;
  s.norm = NormKind::kLayer;
  s.norm_eps = c.positive("norm_eps", 1e-5);
  s.activation = read_activation(c, "hidden_act", "relu2");
  s.gated = false;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  s.mlp_bias = c.boolean("mlp_bias", false);
  model.norm_weights_plus_one = true;
  return model;
}

}  // namespace lmhead
