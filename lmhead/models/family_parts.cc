#include "lmhead/models/family_parts.h"

#include <cmath>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::int64_t kMostLayers = 4096;
constexpr const char* kPartial = "partial_rotary_factor";

RotaryScaling read_scaling_type(const HfConfiguration& scaling) {
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "default") return RotaryScaling::kNone;
  if (type == "linear") return RotaryScaling::kLinear;
  if (type == "llama3") return RotaryScaling::kLlama3;
  scaling.refuse(scaling.has("rope_type") ? "rope_type" : "type", "default, linear or llama3");
}

/// The object that holds the rotary keys, where there is one.
std::optional<HfConfiguration> rotary_object(const HfConfiguration& configuration, const RotaryDefaults& defaults) {
  if (configuration.has("rope_parameters")) {
    const HfConfiguration parameters = configuration.object("rope_parameters");
    if (defaults.layer_type.empty() || !parameters.has(defaults.layer_type)) return parameters;
    return parameters.object(defaults.layer_type);
  }
  if (configuration.has("rope_scaling") && defaults.has_scaling) return configuration.object("rope_scaling");
  return std::nullopt;
}

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
  configuration.refuse(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu");
}

RotarySpecification read_rotary(const HfConfiguration& configuration, std::int64_t head_dim,
                                const RotaryDefaults& defaults) {
  const std::optional<HfConfiguration> found = rotary_object(configuration, defaults);
  const auto value = [&](const char* new_key, const std::string& old_key, double fallback) {
    const double old_value = configuration.positive(old_key, fallback);
    return found ? found->positive(new_key, old_value) : old_value;
  };
  RotarySpecification rotary;
  rotary.theta = value("rope_theta", defaults.theta_key, defaults.theta);
  const bool is_partial = !defaults.partial_key.empty();
  const std::string partial_key = is_partial ? defaults.partial_key : kPartial;
  const double share = value(kPartial, partial_key, defaults.partial_rotary_factor);
  const auto rotated = std::int64_t(double(head_dim) * std::min(share, 1.0));
  rotary.width = is_partial ? rotated : head_dim;
  if (rotary.width < 2 || rotary.width % 2 != 0) {
    configuration.refuse(
        is_partial && share < 1 ? partial_key : "head_dim",
        "such that an even number of a head's elements is rotated, not " + std::to_string(rotary.width));
  }
  if (!found) return rotary;
  const HfConfiguration& parameters = *found;
  rotary.scaling = read_scaling_type(parameters);
  if (rotary.scaling == RotaryScaling::kNone) return rotary;
  if (rotary.width != rotated)
    (parameters.has(kPartial) ? parameters : configuration).refuse(kPartial, "1 where frequencies are scaled");
  rotary.factor = parameters.positive("factor");
  if (rotary.scaling == RotaryScaling::kLinear) return rotary;
  rotary.low_freq_factor = parameters.positive("low_freq_factor");
  rotary.high_freq_factor = parameters.positive("high_freq_factor");
  if (rotary.high_freq_factor <= rotary.low_freq_factor) parameters.refuse("high_freq_factor", "above low_freq_factor");
  rotary.original_max_position_embeddings =
      double(parameters.has("original_max_position_embeddings") ? parameters.size("original_max_position_embeddings")
                                                                : configuration.size("max_position_embeddings"));
  return rotary;
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
