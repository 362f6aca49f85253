// Cohere 2 (Command R7B): one norm for both parts, positions in the sliding windows alone, scaled logits.
#include "lmhead/models/family_parts.h"

namespace lmhead {

FamilyModel describe_cohere2(const HfConfiguration& c) {
  // What its configurations on the hub say beside what the class reads.
  for (const char* key : {"use_parallel_block", "use_gated_activation"})
    if (!c.boolean(key, true)) c.refuse(key, "true");
  if (c.boolean("use_qk_norm", false)) c.refuse("use_qk_norm", "false");
  if (c.is_null("sliding_window")) c.refuse("sliding_window", "an integer");
  FamilyModel model = llama_like(c);
  DecoderSpecification& s = model.decoder;
  require_whole_heads(c, s);
  s.norm = NormKind::kLayer;
  s.norm_bias = false;
  s.norm_eps = c.positive("layer_norm_eps", 1e-5);
  s.parallel_residual = s.shared_input_norm = true;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  const auto sliding = read_sliding_layers(
      c, s.layers.size(), [](std::size_t layer, std::int64_t every) { return (std::int64_t(layer) + 1) % every != 0; },
      c.size("sliding_window_pattern", 4));
  for (std::size_t layer = 0; layer < s.layers.size(); ++layer) {
    if (sliding[layer]) s.layers[layer].sliding_window = c.size("sliding_window", 4096);
    else s.layers[layer].rotary.reset();
  }
  model.tie_word_embeddings = c.boolean("tie_word_embeddings", true);
  model.logit_scale = c.positive("logit_scale", 0.0625);
  model.rules = {{"self_attn.q_proj", "self_attn.q_proj", MatrixLayout::kPairsInterleaved},
                 {"self_attn.k_proj", "self_attn.k_proj", MatrixLayout::kPairsInterleaved}};
  return model;
}

}  // namespace lmhead
