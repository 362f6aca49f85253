// Parts of a configuration that several families share.
#pragma once

#include <optional>
#include <string>

#include "lmhead/models/families.h"
#include "lmhead/models/family_rotary.h"

namespace lmhead {

/// What a family takes where its configuration leaves a size out; empty: the key must be there, but for
/// `num_key_value_heads`, then num_attention_heads, and `head_dim`, then hidden_size / num_attention_heads.
struct SizeDefaults {
  std::optional<std::int64_t> vocab_size = {}, num_attention_heads = {}, num_key_value_heads = {}, head_dim = {};
};

/// Sizes under the keys of Llama, RMSNorm before both parts, a gated MLP: what most families then amend.
DecoderSpecification read_llama_like(const HfConfiguration& configuration, const SizeDefaults& defaults = {});

/// The same as a model, with its activation, rotary frequencies and tie.
FamilyModel llama_like(const HfConfiguration& configuration, const SizeDefaults& sizes = {},
                       const RotaryDefaults& rotary = {});

/// Throws where heads do not fill the width, in a family whose class has no head_dim of its own.
void require_whole_heads(const HfConfiguration& configuration, const DecoderSpecification& decoder);

/// Gives every layer the `sliding_window`, where there is one.
void add_window(const HfConfiguration& configuration, DecoderSpecification& decoder);

/// The number of layers, bounded beyond any model: it decides what a hostile file can make us allocate.
std::size_t read_layers(const HfConfiguration& configuration, const std::string& key);

/// `key` as an activation's name.
Activation read_activation(const HfConfiguration& configuration, const std::string& key, const std::string& fallback);

/// Which layers have a sliding window: `layer_types` where it is there, else `is_sliding_by_default`.
std::vector<bool> read_sliding_layers(const HfConfiguration& configuration, std::size_t layers,
                                      bool (*is_sliding_by_default)(std::size_t layer, std::int64_t argument),
                                      std::int64_t argument);

}  // namespace lmhead
