#include "lmhead/models/hf_classes.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

using Demands = std::vector<HfDemand>;

Demands all_of(const DecoderSpecification& s, Demands more) {
  const bool has_windows = std::any_of(s.layers.begin(), s.layers.end(),
                                       [](const LayerSpecification& layer) { return layer.sliding_window > 0; });
  Demands demands = {
      {"model.num_hidden_layers", "at least 1", !s.layers.empty()},
      {"model.norm_position", "\"pre\"", s.norm_position == NormPosition::kBefore && !s.parallel_residual},
      {"sliding windows, scaled embeddings and soft-capped scores", "absent",
       !has_windows && s.embedding_scale == 1 && s.attention_softcap == 0},
  };
  demands.insert(demands.end(), more.begin(), more.end());
  return demands;
}

bool is_plain_rotary(const DecoderSpecification& s) {
  return s.rotaries.size() == 1 && s.position_embeddings == 0 && s.rotaries[0].width == s.head_dim &&
         s.rotaries[0].scaling == RotaryScaling::kNone;
}

Demands llama_like(const DecoderSpecification& s, Demands more) {
  more.insert(more.begin(), {{"model.norm", "\"rmsnorm\"", s.norm == NormKind::kRms},
                             {"model.position", "\"rotary\"", is_plain_rotary(s)},
                             {"model.activation", "\"swiglu\"", s.gated && s.activation == Activation::kSilu}});
  return all_of(s, more);
}

Demands llama_demands(const DecoderSpecification& s) {
  return llama_like(s, {{"model.qk_norm", "false", s.qk_norm == QueryKeyNorm::kNone}});
}

Demands qwen3_demands(const DecoderSpecification& s) {
  return llama_like(
      s, {{"model.qk_norm", "true", s.qk_norm == QueryKeyNorm::kHead}, {"model.mlp_bias", "false", !s.mlp_bias}});
}

/// GPT-2 and GPT-NeoX: as many key heads as query heads, which fill the width.
Demands gpt_like(const DecoderSpecification& s, Demands more) {
  more.insert(more.begin(), {{"model.norm", "\"layernorm\"", s.norm == NormKind::kLayer},
                             {"model.activation", "\"gelu\"", !s.gated && s.activation == Activation::kGeluTanh},
                             {"model.num_key_value_heads", "null", s.num_key_value_heads == s.num_attention_heads},
                             {"model.head_dim", "null", s.num_attention_heads * s.head_dim == s.hidden_size},
                             {"model.qk_norm", "false", s.qk_norm == QueryKeyNorm::kNone}});
  return all_of(s, more);
}

Demands gpt2_demands(const DecoderSpecification& s) {
  return gpt_like(s, {{"model.position", "\"learned\"", s.position_embeddings > 0 && s.rotaries.empty()}});
}

Demands gpt_neox_demands(const DecoderSpecification& s) {
  return gpt_like(s, {{"model.position", "\"rotary\"", is_plain_rotary(s)}});
}

/// The frequencies, in the keys of transformers 5 and in those of the versions before.
void add_rotary(Json& json, const RotarySpecification& rotary) {
  json["rope_theta"] = rotary.theta;
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", rotary.theta}};
}

Json llama_configuration(const DecoderSpecification& s) {
  Json json = {{"model_type", "llama"},
               {"vocab_size", s.vocab_size},
               {"hidden_size", s.hidden_size},
               {"intermediate_size", s.intermediate_size},
               {"num_hidden_layers", s.layers.size()},
               {"num_attention_heads", s.num_attention_heads},
               {"num_key_value_heads", s.num_key_value_heads},
               {"head_dim", s.head_dim},
               {"hidden_act", "silu"},
               {"rms_norm_eps", s.norm_eps},
               {"attention_bias", s.query_key_value_bias},
               {"mlp_bias", s.mlp_bias}};
  add_rotary(json, s.rotaries[0]);
  return json;
}

Json qwen3_configuration(const DecoderSpecification& s) {
  Json json = llama_configuration(s);
  json["model_type"] = "qwen3";
  json["use_sliding_window"] = false;
  json.erase("mlp_bias");
  return json;
}

Json gpt2_configuration(const DecoderSpecification& s) {
  return {{"model_type", "gpt2"},
          {"vocab_size", s.vocab_size},
          {"n_embd", s.hidden_size},
          {"n_inner", s.intermediate_size},
          {"n_layer", s.layers.size()},
          {"n_head", s.num_attention_heads},
          {"n_positions", s.position_embeddings},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", s.norm_eps},
          {"embd_pdrop", 0.0},  // the class drops a tenth in training, ours was trained without
          {"attn_pdrop", 0.0},
          {"resid_pdrop", 0.0}};
}

Json gpt_neox_configuration(const DecoderSpecification& s) {
  Json json = {{"model_type", "gpt_neox"},
               {"vocab_size", s.vocab_size},
               {"hidden_size", s.hidden_size},
               {"intermediate_size", s.intermediate_size},
               {"num_hidden_layers", s.layers.size()},
               {"num_attention_heads", s.num_attention_heads},
               {"hidden_act", "gelu_new"},
               {"layer_norm_eps", s.norm_eps},
               {"use_parallel_residual", false},
               {"attention_bias", s.query_key_value_bias},
               {"rotary_pct", 1.0},
               {"rotary_emb_base", s.rotaries[0].theta}};
  add_rotary(json, s.rotaries[0]);
  json.erase("rope_theta");
  json["rope_parameters"]["partial_rotary_factor"] = 1.0;
  return json;
}

}  // namespace

const std::vector<HfClass>& hf_classes() {
  static const std::vector<HfClass> kClasses = {
      {"LlamaForCausalLM", llama_demands, llama_configuration},
      {"Qwen3ForCausalLM", qwen3_demands, qwen3_configuration},
      {"GPT2LMHeadModel", gpt2_demands, gpt2_configuration},
      {"GPTNeoXForCausalLM", gpt_neox_demands, gpt_neox_configuration},
      // OLMo 2 is not here: it normalises queries over the whole width, which no option of ours does.
  };
  return kClasses;
}

const HfClass& hf_class_of(const DecoderSpecification& specification) {
  std::string nearest, missing;
  std::size_t fewest = SIZE_MAX;
  for (const HfClass& candidate : hf_classes()) {
    std::string text;
    std::size_t count = 0;
    for (const HfDemand& demand : candidate.demands(specification)) {
      if (demand.holds) continue;
      text += std::string(count++ > 0 ? ", " : "") + demand.option + " must be " + demand.must;
    }
    if (count == 0) return candidate;
    if (count < fewest) fewest = count, nearest = candidate.architecture, missing = text;
  }
  fail("export", "the model must be one that a transformers class expresses, got one that none does; for the nearest, ",
       nearest, ", ", missing, "; the run itself can be used as it is by lmhead measure and lmhead sample");
}

}  // namespace lmhead
