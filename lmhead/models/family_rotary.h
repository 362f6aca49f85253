// The rotary frequencies that a configuration describes.
#pragma once

#include <optional>
#include <string>

#include "lmhead/models/decoder_specification.h"
#include "lmhead/models/hf_configuration.h"

namespace lmhead {

/// The rotary frequencies, in the old keys (`rope_theta`, `rope_scaling`) or the new (`rope_parameters`, per
/// `layer_type` where that is given). Throws on a scaling that is not known.
///
/// In transformers a family that rotates whole heads takes no notice of a partial_rotary_factor, unless frequencies are
/// scaled: then it fails, and so does this.
struct RotaryDefaults {
  double theta = 10000;
  double partial_rotary_factor = 1;
  std::string theta_key = "rope_theta";
  std::string partial_key;  // the old name of partial_rotary_factor; empty: the family rotates whole heads
  std::string layer_type;
  bool has_scaling = true;  // whether the old `rope_scaling` is meant for these layers
  // Where the configuration leaves it out; empty: what rope_parameters says, else max_position_embeddings.
  std::optional<std::int64_t> original_max_position_embeddings = {};
  bool only_longrope = false;  // Phi-3, which knows longrope under older names, and nothing else
};
RotarySpecification read_rotary(const HfConfiguration& configuration, std::int64_t head_dim,
                                const RotaryDefaults& defaults);

}  // namespace lmhead
