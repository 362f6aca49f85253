// Gemma 1, 2 and 3 (text): scaled embeddings, norms of 1 + weight, soft-caps, local and global layers.
#include <cmath>

#include "lmhead/models/family_parts.h"

namespace lmhead {
namespace {

FamilyModel gemma_like(const HfConfiguration& c, const SizeDefaults& defaults) {
  if (c.boolean("use_bidirectional_attention", false)) c.refuse("use_bidirectional_attention", "false");
  FamilyModel model;
  DecoderSpecification& s = model.decoder;
  s = read_llama_like(c, defaults);
  s.embedding_scale = float(std::sqrt(double(s.hidden_size)));
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  model.tie_word_embeddings = c.boolean("tie_word_embeddings", true);
  model.norm_weights_plus_one = true;
  return model;
}

/// What Gemma 2 and 3 have beyond the first.
void add_second_generation(const HfConfiguration& c, DecoderSpecification& s) {
  s.norm_position = NormPosition::kBoth;
  s.activation = read_activation(c, "hidden_activation", "gelu_pytorch_tanh");
  s.attention_scale = 1 / std::sqrt(c.positive("query_pre_attn_scalar", 256));
}

/// Gives every `period`-th layer the whole past and the first rotary, the others the window and the last.
void add_local_layers(const HfConfiguration& c, DecoderSpecification& s, std::int64_t period) {
  const auto sliding = read_sliding_layers(
      c, s.layers.size(), [](std::size_t layer, std::int64_t every) { return (std::int64_t(layer) + 1) % every != 0; },
      period);
  const std::int64_t window = c.is_null("sliding_window") ? 0 : c.size("sliding_window", 4096);
  for (std::size_t layer = 0; layer < s.layers.size(); ++layer)
    if (sliding[layer]) s.layers[layer] = {window, s.rotaries.size() - 1};
}

}  // namespace

FamilyModel describe_gemma(const HfConfiguration& c) {
  FamilyModel model = gemma_like(c, {.num_key_value_heads = 16, .head_dim = 256});
  DecoderSpecification& s = model.decoder;
  s.rotaries = {read_rotary(c, s.head_dim, {})};
  s.activation =
      read_activation(c, c.has("hidden_activation") ? "hidden_activation" : "hidden_act", "gelu_pytorch_tanh");
  // The first release wrote gelu and meant its tanh form; every later reader corrects it.
  if (s.activation == Activation::kGelu) s.activation = Activation::kGeluTanh;
  return model;
}

FamilyModel describe_gemma2(const HfConfiguration& c) {
  FamilyModel model = gemma_like(c, {.num_key_value_heads = 4, .head_dim = 256});
  DecoderSpecification& s = model.decoder;
  add_second_generation(c, s);
  s.rotaries = {read_rotary(c, s.head_dim, {})};
  s.attention_softcap = c.is_null("attn_logit_softcapping") ? 0 : c.positive("attn_logit_softcapping", 50);
  model.logit_softcap = c.is_null("final_logit_softcapping") ? 0 : c.positive("final_logit_softcapping", 30);
  add_local_layers(c, s, 2);
  return model;
}

FamilyModel describe_gemma3(const HfConfiguration& outer) {
  const HfConfiguration c = outer.has("text_config") ? outer.object("text_config") : outer;
  FamilyModel model =
      gemma_like(c, {.vocab_size = 262208, .num_attention_heads = 8, .num_key_value_heads = 4, .head_dim = 256});
  DecoderSpecification& s = model.decoder;
  add_second_generation(c, s);
  s.qk_norm = QueryKeyNorm::kHead;
  s.rotaries = {
      read_rotary(c, s.head_dim, {.theta = 1e6, .layer_type = "full_attention"}),
      read_rotary(c, s.head_dim,
                  {.theta_key = "rope_local_base_freq", .layer_type = "sliding_attention", .has_scaling = false})};
  // attn_logit_softcapping stands in its configurations, but its attention never uses it.
  if (c.has("final_logit_softcapping")) model.logit_softcap = c.positive("final_logit_softcapping");
  add_local_layers(c, s, c.size("sliding_window_pattern", 6));
  model.body_prefixes = {"model.", "model.language_model.", "language_model.model.", ""};
  model.head_names = {"lm_head.weight", "language_model.lm_head.weight"};
  for (const char* part : {"vision_tower.", "multi_modal_projector."}) {
    model.ignored_prefixes.push_back(part);
    model.ignored_prefixes.push_back(std::string("model.") + part);
  }
  return model;
}

}  // namespace lmhead
