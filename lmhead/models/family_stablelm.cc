// StableLM: LayerNorm, partial rotary positions, optional biases and norms of every head.
#include "lmhead/models/family_parts.h"

namespace lmhead {

FamilyModel describe_stablelm(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {.num_key_value_heads = 32},
                                 {.partial_rotary_factor = 0.25, .partial_key = "partial_rotary_factor"});
  DecoderSpecification& s = model.decoder;
  require_whole_heads(c, s);
  s.norm = NormKind::kLayer;
  s.norm_eps = c.positive("layer_norm_eps", 1e-5);
  s.parallel_residual = s.shared_input_norm = c.boolean("use_parallel_residual", false);
  s.query_key_value_bias = c.boolean("use_qkv_bias", false);
  if (c.boolean("qk_layernorm", false)) s.qk_norm = QueryKeyNorm::kEachHead;
  return model;
}

}  // namespace lmhead
