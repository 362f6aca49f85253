#include "lmhead/models/family_parts.h"

#include <cmath>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::int64_t kMostLayers = 4096;

}  // namespace

Activation read_activation(const HfConfiguration& configuration, const std::string& key, const std::string& fallback) {
  const std::string name = configuration.text(key, fallback);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  // Four names of one formula.
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast" || name == "gelu_python_tanh") {
    return Activation::kGeluTanh;
  }
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kReluSquared;
  configuration.refuse(key, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu or relu2");
}

std::vector<bool> read_sliding_layers(const HfConfiguration& configuration, std::size_t layers,
                                      bool (*is_sliding_by_default)(std::size_t layer, std::int64_t argument),
                                      std::int64_t argument) {
  std::vector<bool> sliding(layers);
  for (std::size_t layer = 0; layer < layers; ++layer) sliding[layer] = is_sliding_by_default(layer, argument);
  if (!configuration.has("layer_types")) return sliding;
  const auto types = configuration.texts("layer_types");
  bool is_known = types.size() == layers;
  for (std::size_t layer = 0; is_known && layer < layers; ++layer) {
    sliding[layer] = types[layer] == "sliding_attention";
    is_known = sliding[layer] || types[layer] == "full_attention";
  }
  if (!is_known) {
    configuration.refuse("layer_types",
                         "full_attention or sliding_attention for each of the " + std::to_string(layers) + " layers");
  }
  return sliding;
}

std::size_t read_layers(const HfConfiguration& configuration, const std::string& key) {
  const std::int64_t layers = configuration.size(key);
  if (layers > kMostLayers) configuration.refuse(key, "at most " + std::to_string(kMostLayers));
  return std::size_t(layers);
}

void require_whole_heads(const HfConfiguration& configuration, const DecoderSpecification& decoder) {
  if (decoder.head_dim * decoder.num_attention_heads != decoder.hidden_size)
    configuration.refuse("head_dim", "hidden_size / num_attention_heads");
}

void add_window(const HfConfiguration& configuration, DecoderSpecification& decoder) {
  if (!configuration.has("sliding_window")) return;
  for (LayerSpecification& layer : decoder.layers) layer.sliding_window = configuration.size("sliding_window");
}

FamilyModel llama_like(const HfConfiguration& configuration, const SizeDefaults& sizes, const RotaryDefaults& rotary) {
  FamilyModel model;
  DecoderSpecification& s = model.decoder;
  s = read_llama_like(configuration, sizes);
  s.activation = read_activation(configuration, "hidden_act", "silu");
  s.rotaries = {read_rotary(configuration, s.head_dim, rotary)};
  model.tie_word_embeddings = configuration.boolean("tie_word_embeddings", false);
  return model;
}

DecoderSpecification read_llama_like(const HfConfiguration& configuration, const SizeDefaults& defaults) {
  DecoderSpecification s;
  s.vocab_size = configuration.size("vocab_size", defaults.vocab_size);
  s.hidden_size = configuration.size("hidden_size");
  s.intermediate_size = configuration.size("intermediate_size");
  s.num_attention_heads = configuration.size("num_attention_heads", defaults.num_attention_heads);
  s.num_key_value_heads =
      configuration.size("num_key_value_heads", defaults.num_key_value_heads.value_or(s.num_attention_heads));
  if (s.num_attention_heads % s.num_key_value_heads != 0) {
    configuration.refuse("num_key_value_heads",
                         "a divisor of num_attention_heads " + std::to_string(s.num_attention_heads));
  }
  if (!defaults.head_dim && !configuration.has("head_dim") && s.hidden_size % s.num_attention_heads != 0) {
    configuration.refuse("num_attention_heads", "a divisor of hidden_size where there is no head_dim");
  }
  s.head_dim = configuration.size("head_dim", defaults.head_dim.value_or(s.hidden_size / s.num_attention_heads));
  s.layers.resize(read_layers(configuration, "num_hidden_layers"));
  s.norm_eps = configuration.positive("rms_norm_eps", 1e-6);
  s.attention_scale = 1 / std::sqrt(double(s.head_dim));
  return s;
}

}  // namespace lmhead
