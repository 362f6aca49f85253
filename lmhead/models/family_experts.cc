// Mixtral and Qwen3-MoE: the block of Llama with sparse mixtures of experts.
#include <algorithm>

#include "lmhead/models/family_parts.h"

namespace lmhead {
namespace {

constexpr std::int64_t kMostExperts = 4096;

struct ExpertDefaults {
  std::int64_t num_experts, num_experts_per_tok;
};

/// The mixture's sizes; which layers have one is for the family to say.
void read_experts(const HfConfiguration& c, const ExpertDefaults& defaults, DecoderSpecification& s) {
  const char* key = c.has("num_experts") ? "num_experts" : "num_local_experts";
  s.num_experts = c.size(key, defaults.num_experts);
  if (s.num_experts > kMostExperts) c.refuse(key, "at most " + std::to_string(kMostExperts));
  s.num_experts_per_tok = c.size("num_experts_per_tok", defaults.num_experts_per_tok);
  if (s.num_experts_per_tok > s.num_experts)
    c.refuse("num_experts_per_tok", "at most " + std::string(key) + " " + std::to_string(s.num_experts));
}

}  // namespace

FamilyModel describe_mixtral(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {.num_key_value_heads = 8}, {.theta = 1e6});
  DecoderSpecification& s = model.decoder;
  s.norm_eps = c.positive("rms_norm_eps", 1e-5);
  add_window(c, s);
  read_experts(c, {.num_experts = 8, .num_experts_per_tok = 2}, s);
  s.moe_intermediate_size = s.intermediate_size;
  s.norm_topk_prob = true;
  for (LayerSpecification& layer : s.layers) layer.has_experts = true;
  model.rules = {{"mlp.gate", "block_sparse_moe.gate"}};
  for (std::int64_t expert = 0; expert < s.num_experts; ++expert) {
    const std::string name = "experts." + std::to_string(expert) + ".";
    const auto add = [&](const char* ours, const char* theirs) {
      model.rules.push_back({"mlp." + name + ours, "block_sparse_moe." + name + theirs});
    };
    add("gate_proj", "w1"), add("down_proj", "w2"), add("up_proj", "w3");
  }
  return model;
}

FamilyModel describe_qwen3_moe(const HfConfiguration& c) {
  FamilyModel model = llama_like(c, {.num_key_value_heads = 4});
  DecoderSpecification& s = model.decoder;
  s.qk_norm = QueryKeyNorm::kHead;
  s.query_key_value_bias = s.attention_output_bias = c.boolean("attention_bias", false);
  if (c.boolean("use_sliding_window", false) && !c.is_null("sliding_window"))
    for (LayerSpecification& layer : s.layers) layer.sliding_window = c.size("sliding_window", 4096);
  read_experts(c, {.num_experts = 128, .num_experts_per_tok = 8}, s);
  s.moe_intermediate_size = c.size("moe_intermediate_size", 768);
  s.norm_topk_prob = c.boolean("norm_topk_prob", false);
  const auto dense = c.integers("mlp_only_layers");
  const std::int64_t step = c.size("decoder_sparse_step", 1);
  for (std::int64_t layer = 0; layer < std::int64_t(s.layers.size()); ++layer)
    s.layers[std::size_t(layer)].has_experts = (layer + 1) % step == 0 && !std::ranges::count(dense, layer);
  return model;
}

}  // namespace lmhead
