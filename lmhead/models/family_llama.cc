// Llama 1 to 3 (SmolLM2 too), Mistral, Qwen 2 and 3, OLMo 2, Phi-3, Granite: one block, small differences.
#include "lmhead/models/family_parts.h"

namespace lmhead {
namespace {

void add_qwen_windows(const HfConfiguration& c, DecoderSpecification& s) {
  if (!c.boolean("use_sliding_window", false)) return;
  const std::int64_t window = c.size("sliding_window", 4096);
  const auto sliding = read_sliding_layers(
      c, s.layers.size(), [](std::size_t layer, std::int64_t first) { return std::int64_t(layer) >= first; },
      c.size("max_window_layers", 28, /*least=*/0));
  for (std::size_t layer = 0; layer < s.layers.size(); ++layer)
    s.layers[layer].sliding_window = sliding[layer] ? window : 0;
}

}  // namespace

FamilyModel describe_llama(const HfConfiguration& c) {
  FamilyModel model = llama_like(c);
  DecoderSpecification& s = model.decoder;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  s.mlp_bias = c.boolean("mlp_bias", false);
  return model;
}

FamilyModel describe_mistral(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {.num_key_value_heads = 8});
  // An explicit null means no window, an absent key the window of the first release.
  const std::int64_t window = c.is_null("sliding_window") ? 0 : c.size("sliding_window", 4096);
  for (LayerSpecification& layer : model.decoder.layers) layer.sliding_window = window;
  return model;
}

FamilyModel describe_qwen2(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {.num_key_value_heads = 32});
  model.decoder.query_key_value_bias = true;
  add_qwen_windows(c, model.decoder);
  return model;
}

FamilyModel describe_qwen3(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {.num_key_value_heads = 32, .head_dim = 128});
  DecoderSpecification& s = model.decoder;
  s.qk_norm = QueryKeyNorm::kHead;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  add_qwen_windows(c, s);
  return model;
}

FamilyModel describe_olmo2(const HfConfiguration& c) {
  FamilyModel model = llama_like(c);
  DecoderSpecification& s = model.decoder;
  s.norm_eps = c.positive("rms_norm_eps", 1e-5);
  s.norm_position = NormPosition::kAfter;
  s.qk_norm = QueryKeyNorm::kWidth;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  return model;
}

FamilyModel describe_phi3(const HfConfiguration& c) {
  FamilyModel model = llama_like(
      c, {}, {.partial_key = "partial_rotary_factor", .original_max_position_embeddings = 4096, .only_longrope = true});
  DecoderSpecification& s = model.decoder;
  s.norm_eps = c.positive("rms_norm_eps", 1e-5);
  add_window(c, s);
  model.rules = {{"self_attn.qkv_proj", "self_attn.qkv_proj"}, {"mlp.gate_up_proj", "mlp.gate_up_proj"}};  // fused
  return model;
}

FamilyModel describe_granite(const HfConfiguration& c) {
  FamilyModel model = describe_llama(c);
  DecoderSpecification& s = model.decoder;
  s.embedding_scale = c.positive("embedding_multiplier", 1);
  s.residual_scale = c.positive("residual_multiplier", 1);
  s.attention_scale = c.positive("attention_multiplier", 1);
  model.logit_scale = 1 / c.positive("logits_scaling", 1);
  return model;
}

}  // namespace lmhead
