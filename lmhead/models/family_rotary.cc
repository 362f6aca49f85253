#include "lmhead/models/family_rotary.h"

#include <algorithm>
#include <cmath>

namespace lmhead {
namespace {

constexpr const char* kPartial = "partial_rotary_factor";
constexpr const char* kOriginal = "original_max_position_embeddings";

RotaryScaling read_scaling_type(const HfConfiguration& scaling, const RotaryDefaults& defaults) {
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "default") return RotaryScaling::kNone;
  const auto refuse = [&](const char* must) { scaling.refuse(scaling.has("rope_type") ? "rope_type" : "type", must); };
  if (type == "longrope" || (defaults.only_longrope && (type == "su" || type == "yarn")))
    return RotaryScaling::kLongRope;
  if (defaults.only_longrope) refuse("default or longrope");
  if (type == "linear") return RotaryScaling::kLinear;
  if (type == "llama3") return RotaryScaling::kLlama3;
  if (type == "dynamic") return RotaryScaling::kDynamic;
  if (type != "yarn") refuse("default, linear, llama3, dynamic, yarn or longrope");
  return RotaryScaling::kYarn;
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

/// The configuration's own key comes before that of the rotary object, as in transformers.
double read_original_length(const HfConfiguration& configuration, const HfConfiguration& parameters,
                            const RotaryDefaults& defaults) {
  if (configuration.has(kOriginal)) return double(configuration.size(kOriginal));
  if (defaults.original_max_position_embeddings) return double(*defaults.original_max_position_embeddings);
  if (parameters.has(kOriginal)) return double(parameters.size(kOriginal));
  return double(configuration.size("max_position_embeddings"));
}

/// What yarn multiplies cosine and sine by for a context that is `scale` times as long.
double yarn_magnitude(double scale, double mscale) { return scale <= 1 ? 1 : 0.1 * mscale * std::log(scale) + 1; }

void read_yarn(const HfConfiguration& parameters, RotarySpecification& rotary) {
  const bool has_magnitudes = parameters.has("mscale") && parameters.has("mscale_all_dim");
  const auto magnitude = [&](const char* key) { return yarn_magnitude(rotary.factor, parameters.positive(key)); };
  rotary.attention_factor = parameters.has("attention_factor") ? parameters.positive("attention_factor")
                            : has_magnitudes                   ? magnitude("mscale") / magnitude("mscale_all_dim")
                                                               : yarn_magnitude(rotary.factor, 1);
  rotary.beta_fast = parameters.positive("beta_fast", 32);
  rotary.beta_slow = parameters.positive("beta_slow", 1);
  rotary.truncate = parameters.boolean("truncate", true);
  if (rotary.theta == 1) parameters.refuse("rope_theta", "other than 1 for yarn");
}

void read_longrope(const HfConfiguration& parameters, RotarySpecification& rotary) {
  const auto count = std::size_t(rotary.width / 2);
  rotary.short_factor = parameters.positives("short_factor", count);
  rotary.long_factor = parameters.positives("long_factor", count);
  const double stretch =
      rotary.factor <= 1 ? 0 : std::log(rotary.factor) / std::log(rotary.original_max_position_embeddings);
  rotary.attention_factor = parameters.positive("attention_factor", std::sqrt(1 + stretch));
  if (!std::isfinite(rotary.attention_factor)) parameters.refuse(kOriginal, "above 1 for longrope");
}

void read_llama3(const HfConfiguration& parameters, RotarySpecification& rotary) {
  rotary.low_freq_factor = parameters.positive("low_freq_factor");
  rotary.high_freq_factor = parameters.positive("high_freq_factor");
  if (rotary.high_freq_factor <= rotary.low_freq_factor) parameters.refuse("high_freq_factor", "above low_freq_factor");
}

}  // namespace

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
  rotary.scaling = read_scaling_type(parameters, defaults);
  if (rotary.scaling == RotaryScaling::kNone) return rotary;
  if (rotary.width != rotated)
    (parameters.has(kPartial) ? parameters : configuration).refuse(kPartial, "1 where frequencies are scaled");
  const bool is_longrope = rotary.scaling == RotaryScaling::kLongRope;
  if (rotary.scaling == RotaryScaling::kLinear || rotary.scaling == RotaryScaling::kDynamic) {
    rotary.factor = parameters.positive("factor");
    if (rotary.scaling == RotaryScaling::kLinear) return rotary;
    rotary.max_position_embeddings = double(configuration.size("max_position_embeddings"));
    if (rotary.width == 2) configuration.refuse("head_dim", "such that more than 2 elements are rotated for dynamic");
    return rotary;
  }
  rotary.original_max_position_embeddings = read_original_length(configuration, parameters, defaults);
  // Yarn takes what the lengths say where it is null, longrope where there is none.
  const bool is_yarn = rotary.scaling == RotaryScaling::kYarn;
  if (is_longrope ? !parameters.has("factor") : is_yarn && parameters.is_null("factor"))
    rotary.factor = double(configuration.size("max_position_embeddings")) / rotary.original_max_position_embeddings;
  else rotary.factor = parameters.positive("factor");
  if (is_longrope) read_longrope(parameters, rotary);
  else if (is_yarn) read_yarn(parameters, rotary);
  else read_llama3(parameters, rotary);
  return rotary;
}

}  // namespace lmhead
