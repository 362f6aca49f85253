#include "lmhead/models/families.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

FamilyModel describe(const std::string& text) { return describe_model(HfConfiguration(text, "config.json")); }

std::string error_of(const std::string& text) {
  try {
    describe(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// A Llama configuration with these members more; of two equal keys the later counts.
std::string llama_with(const std::string& members) {
  return R"({"model_type":"llama","vocab_size":11,"hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,)"
         R"("num_attention_heads":4)" +
         std::string(members.empty() ? "" : ",") + members + "}";
}

std::string gemma3_with(const std::string& members) {
  return R"({"model_type":"gemma3_text","vocab_size":11,"hidden_size":8,"intermediate_size":12,"num_hidden_layers":7)" +
         std::string(members.empty() ? "" : ",") + members + "}";
}

#define EXPECT_REFUSED(part, ...) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, error_of(__VA_ARGS__))

TEST(Families, DefaultsAreTheFamilysOwn) {
  const FamilyModel model = describe(llama_with(""));
  EXPECT_EQ(model.decoder.num_key_value_heads, 4);
  EXPECT_EQ(model.decoder.head_dim, 2);
  EXPECT_EQ(model.decoder.rotaries[0].theta, 10000);
  EXPECT_FALSE(model.tie_word_embeddings);
  EXPECT_EQ(describe(llama_with(R"("tie_word_embeddings":null,"head_dim":null)")).decoder.head_dim, 2);
}

TEST(Families, OldAndNewRotaryKeysMeanTheSame) {
  const std::string scaling =
      R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192)";
  const auto old_keys =
      describe(llama_with(R"("rope_theta":500000,"rope_scaling":{"rope_type":"llama3",)" + scaling + "}"));
  const auto new_keys =
      describe(llama_with(R"("rope_parameters":{"rope_theta":500000,"rope_type":"llama3",)" + scaling + "}"));
  for (const auto& model : {old_keys, new_keys}) {
    const RotarySpecification& rotary = model.decoder.rotaries.at(0);
    EXPECT_EQ(rotary.scaling, RotaryScaling::kLlama3);
    EXPECT_EQ(rotary.theta, 500000);
    EXPECT_EQ(rotary.factor, 8);
    EXPECT_EQ(rotary.original_max_position_embeddings, 8192);
  }
  const auto linear = describe(llama_with(R"("rope_scaling":{"type":"linear","factor":2})"));
  EXPECT_EQ(linear.decoder.rotaries[0].scaling, RotaryScaling::kLinear);
  EXPECT_EQ(linear.decoder.rotaries[0].factor, 2);
}

TEST(Families, GemmaThreeOfTheHubIsReadInItsOldKeysAndInsideTheModelThatSees) {
  const std::string old_keys = R"("rope_theta":1000000,"rope_local_base_freq":10000,"rope_scaling":{"factor":8.0,)"
                               R"("rope_type":"linear"},"sliding_window":512,"sliding_window_pattern":6)";
  const std::string text_alone = gemma3_with(old_keys);
  for (const std::string& text : {text_alone, R"({"model_type":"gemma3","text_config":)" + text_alone + "}"}) {
    const DecoderSpecification s = describe(text).decoder;
    ASSERT_EQ(s.rotaries.size(), 2u);
    EXPECT_EQ(s.rotaries[0].theta, 1e6);
    EXPECT_EQ(s.rotaries[0].scaling, RotaryScaling::kLinear);
    EXPECT_EQ(s.rotaries[1].theta, 1e4);
    EXPECT_EQ(s.rotaries[1].scaling, RotaryScaling::kNone);
    for (std::size_t layer = 0; layer < 7; ++layer) {
      EXPECT_EQ(s.layers[layer].sliding_window, layer == 5 ? 0 : 512) << layer;
      EXPECT_EQ(s.layers[layer].rotary, layer == 5 ? 0u : 1u) << layer;
    }
    EXPECT_EQ(s.num_attention_heads, 8);
    EXPECT_EQ(s.num_key_value_heads, 4);
    EXPECT_EQ(s.head_dim, 256);
    EXPECT_DOUBLE_EQ(s.attention_scale, 1 / 16.0);
  }
}

TEST(Families, MistralTellsNoWindowFromNoWord) {
  const std::string start = R"({"model_type":"mistral","vocab_size":11,"hidden_size":16,"intermediate_size":12,)"
                            R"("num_hidden_layers":1,"num_attention_heads":8)";
  EXPECT_EQ(describe(start + "}").decoder.layers[0].sliding_window, 4096);
  EXPECT_EQ(describe(start + R"(,"sliding_window":null})").decoder.layers[0].sliding_window, 0);
}

TEST(Families, AFamilyThatIsNotKnownPointsToPython) {
  EXPECT_EQ(error_of(R"({"model_type":"mamba"})"),
            "[checkpoint] config.json: model_type must be one of gpt2, gpt_neox, llama, mistral, qwen2, "
            "qwen3, olmo2, "
            "gemma, gemma2, gemma3_text, gemma3, mixtral, qwen3_moe, phi3, granite, cohere2, stablelm, nemotron (any "
            "other model: lmhead measure --engine transformers, or lmhead.measure(model, batches) in Python), "
            "got \"mamba\"");
}

TEST(Families, WrongValuesNameFileAndKey) {
  EXPECT_EQ(error_of(llama_with(R"("vocab_size":"11")")),
            "[checkpoint] config.json: vocab_size must be an integer from 1 to 2147483647, got \"11\"");
  EXPECT_REFUSED("hidden_size must be an integer from 1 to 2147483647, got nothing",
                 R"({"model_type":"llama","vocab_size":3})");
  for (const char* size : {"0", "-1", "8.0", "1e300", "2147483648", "99999999999999999999", "true", "[8]", "{}"}) {
    EXPECT_REFUSED("hidden_size must be an integer", llama_with(std::string("\"hidden_size\":").append(size)));
  }
  for (const char* eps : {"0", "-1e-5", "\"1e-5\"", "false"}) {
    EXPECT_REFUSED("rms_norm_eps must be a number above 0", llama_with(std::string("\"rms_norm_eps\":").append(eps)));
  }
  EXPECT_REFUSED("attention_bias must be true or false, got 1", llama_with(R"("attention_bias":1)"));
  EXPECT_REFUSED("hidden_act must be silu, gelu", llama_with(R"("hidden_act":"quick_gelu")"));
  EXPECT_REFUSED("num_key_value_heads must be a divisor", llama_with(R"("num_key_value_heads":3)"));
  EXPECT_REFUSED("num_attention_heads must be a divisor of hidden_size", llama_with(R"("num_attention_heads":3)"));
  EXPECT_REFUSED("num_hidden_layers must be at most 4096", llama_with(R"("num_hidden_layers":2000000000)"));
  EXPECT_REFUSED("such that an even number", llama_with(R"("head_dim":3)"));
  EXPECT_REFUSED("config.json: rope_scaling: rope_type must be default, linear, llama3, dynamic, yarn or longrope, got",
                 llama_with(R"("rope_scaling":{"rope_type":"proportional","factor":4})"));
  EXPECT_REFUSED("rope_scaling: factor must be a number above 0, got nothing",
                 llama_with(R"("rope_scaling":{"type":"yarn","original_max_position_embeddings":9})"));
  EXPECT_REFUSED("max_position_embeddings must be an integer",
                 llama_with(R"("rope_scaling":{"type":"dynamic","factor":2})"));
  EXPECT_REFUSED("more than 2 elements", llama_with(R"("max_position_embeddings":9,"rope_scaling":{"type":"dynamic",)"
                                                    R"("factor":2})"));
  const auto longrope = [](const char* factors) {
    return llama_with(R"("max_position_embeddings":9,"head_dim":4,"rope_scaling":{"type":"longrope","factor":2,)"
                      R"("short_factor":[1,2],"long_factor":)" +
                      std::string(factors) + "}");
  };
  EXPECT_EQ(describe(longrope("[3,4.5]")).decoder.rotaries[0].long_factor, (std::vector<double>{3, 4.5}));
  for (const char* factors : {"[3]", "[3,0]", "[3,\"4\"]", "3", "[3,1e999]", "[3,4,5]"})
    EXPECT_NE(error_of(longrope(factors)), "no error") << factors;
  EXPECT_REFUSED("long_factor must be an array of 2 numbers above 0, got an array", longrope("[3,-4]"));
  EXPECT_REFUSED("rope_scaling: factor must be a number above 0, got nothing",
                 llama_with(R"("rope_scaling":{"type":"linear"})"));
  EXPECT_REFUSED("rope_scaling must be an object, got \"x\"", llama_with(R"("rope_scaling":"x")"));
  EXPECT_REFUSED("layer_types must be full_attention or sliding_attention for each of the 7",
                 gemma3_with(R"("layer_types":["full_attention"])"));
  EXPECT_REFUSED("layer_types must be an array of texts", gemma3_with(R"("layer_types":[1])"));
  EXPECT_REFUSED("quantization_config must be absent", llama_with(R"("quantization_config":{"bits":4})"));
  EXPECT_REFUSED("must be valid JSON", "{");
  EXPECT_REFUSED("must hold numbers that float64 can", llama_with(R"("rms_norm_eps":1e999)"));
  EXPECT_REFUSED("must be an object, got an array", "[]");
  EXPECT_REFUSED("model_type must be a text", R"({"model_type":[]})");
}

TEST(Families, WholeHeadsAreRotatedWhateverAPartialFactorSays) {
  EXPECT_EQ(describe(llama_with(R"("head_dim":8,"partial_rotary_factor":0.5)")).decoder.rotaries[0].width, 8);
  EXPECT_EQ(describe(llama_with(R"("head_dim":8,"partial_rotary_factor":0.01)")).decoder.rotaries[0].width, 8);
  // The class in transformers fails on both.
  EXPECT_REFUSED("partial_rotary_factor must be 1 where frequencies are scaled, got 0.5",
                 llama_with(R"("head_dim":8,"partial_rotary_factor":0.5,"rope_scaling":{"type":"linear","factor":2})"));
  EXPECT_REFUSED("partial_rotary_factor must be 1 where frequencies are scaled, got 0.25",
                 llama_with(R"("head_dim":8,"rope_parameters":{"rope_type":"linear","factor":2,"rope_theta":100,)"
                            R"("partial_rotary_factor":0.25})"));
}

/// A configuration of another family with Llama's keys.
std::string other_with(const std::string& type, const std::string& members = "") {
  std::string text = llama_with(members);
  return text.replace(text.find("llama"), 5, type);
}

TEST(Families, ExpertsStandInTheLayersThatTheConfigurationSays) {
  const auto has_experts = [](const std::string& members) {
    const FamilyModel model =
        describe(other_with("qwen3_moe", R"("num_hidden_layers":4,"num_key_value_heads":2,"num_experts":6)" + members));
    std::string places;
    for (const LayerSpecification& layer : model.decoder.layers) places += layer.has_experts ? 'x' : '.';
    return places;
  };
  EXPECT_EQ(has_experts(R"(,"num_experts_per_tok":6)"), "xxxx");
  EXPECT_EQ(has_experts(R"(,"num_experts_per_tok":1,"mlp_only_layers":[0,3,9])"), ".xx.");
  EXPECT_EQ(has_experts(R"(,"num_experts_per_tok":1,"decoder_sparse_step":2)"), ".x.x");
  const DecoderSpecification mixtral = describe(other_with("mixtral", R"("num_key_value_heads":2)")).decoder;
  EXPECT_EQ(mixtral.num_experts, 8);
  EXPECT_EQ(mixtral.num_experts_per_tok, 2);
  EXPECT_EQ(mixtral.moe_intermediate_size, 12);
  EXPECT_TRUE(mixtral.norm_topk_prob);
  EXPECT_EQ(mixtral.rotaries[0].theta, 1e6);
  EXPECT_REFUSED("num_experts_per_tok must be at most num_local_experts 4, got 5",
                 other_with("mixtral", R"("num_key_value_heads":2,"num_local_experts":4,"num_experts_per_tok":5)"));
  EXPECT_REFUSED("num_experts must be at most 4096",
                 other_with("mixtral", R"("num_key_value_heads":2,"num_experts":2000000000)"));
}

TEST(Families, WhatIsNotCarriedOutIsRefused) {
  EXPECT_REFUSED("use_qk_norm must be false, got true", other_with("cohere2", R"("use_qk_norm":true)"));
  EXPECT_REFUSED("use_parallel_block must be true", other_with("cohere2", R"("use_parallel_block":false)"));
  EXPECT_REFUSED("sliding_window must be an integer", other_with("cohere2", R"("sliding_window":null)"));
  EXPECT_REFUSED("head_dim must be hidden_size / num_attention_heads, got 4", other_with("cohere2", R"("head_dim":4)"));
  EXPECT_REFUSED("rope_type must be default or longrope, got \"linear\"",
                 other_with("phi3", R"("rope_scaling":{"rope_type":"linear","factor":2})"));
  EXPECT_REFUSED("such that an even number", other_with("stablelm", R"("num_key_value_heads":4)"));
  EXPECT_REFUSED("logits_scaling must be a number above 0, got 0", other_with("granite", R"("logits_scaling":0)"));
}

TEST(Families, CohereSeesFarAwayWithoutPositions) {
  const FamilyModel model = describe(other_with("cohere2", R"("num_hidden_layers":5,"sliding_window":7)"));
  for (std::size_t layer = 0; layer < 5; ++layer) {
    EXPECT_EQ(model.decoder.layers[layer].sliding_window, layer == 3 ? 0 : 7) << layer;
    EXPECT_EQ(model.decoder.layers[layer].rotary.has_value(), layer != 3) << layer;
  }
  EXPECT_EQ(model.logit_scale, 0.0625);
  EXPECT_TRUE(model.tie_word_embeddings);
}

TEST(Families, DeepNestingIsRefused) {
  const std::string open(100000, '['), close(100000, ']');
  EXPECT_REFUSED("must be nested at most 100 deep", llama_with(R"("auto_map":)" + open + close));
  EXPECT_REFUSED("vocab_size must be an integer", llama_with(R"("vocab_size":[[]])"));
}

}  // namespace
}  // namespace lmhead
