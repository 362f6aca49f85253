// Small decoders of every kind for the tests of the models room.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/random.h"
#include "lmhead/models/causal_model.h"

namespace lmhead {

/// For products as small as these a second thread only waits.
inline const bool kOneThread = (at::set_num_threads(1), true);

struct Variant {
  std::string name;
  DecoderOptions options;
};

inline DecoderOptions tiny_options() {
  DecoderOptions options;
  options.hidden_size = 16;
  options.intermediate_size = 20;
  options.num_hidden_layers = 2;
  options.num_attention_heads = 4;
  return options;
}

/// Every choice of the specification at least once, and the families that are mixtures of them.
inline std::vector<Variant> variants() {
  std::vector<Variant> all;
  const auto add = [&](const char* name, auto&& change) {
    DecoderOptions options = tiny_options();
    change(options);
    all.push_back({name, options});
  };
  add("llama", [](DecoderOptions&) {});
  add("gpt2", [](DecoderOptions& o) {
    o.norm = "layernorm";
    o.position = "learned";
    o.max_position_embeddings = 12;
    o.activation = "gelu";
    o.attention_bias = o.mlp_bias = o.tie_word_embeddings = true;
    o.initializer = "gpt2";
  });
  add("qwen3", [](DecoderOptions& o) {
    o.num_key_value_heads = 2;
    o.head_dim = 6;
    o.qk_norm = true;
    o.rope_theta = 100;
  });
  add("post", [](DecoderOptions& o) { o.norm_position = "post"; });
  add("post with layernorm", [](DecoderOptions& o) { o.norm_position = "post", o.norm = "layernorm"; });
  add("output", [](DecoderOptions& o) { o.norm_position = "output", o.qk_norm = true; });
  add("no positions, one key head, biases", [](DecoderOptions& o) {
    o.position = "none";
    o.num_key_value_heads = 1;
    o.attention_bias = o.mlp_bias = true;
  });
  add("no layers", [](DecoderOptions& o) { o.num_hidden_layers = 0; });
  return all;
}

/// Overwrites every parameter by random values that are large enough for every term to matter.
inline void randomise(const ParameterList& parameters) {
  at::NoGradGuard no_grad;
  for (const ParameterPtr& parameter : parameters) {
    if (parameter->kind == ParameterKind::kConstant) continue;
    RandomStream stream(5, parameter->name);
    const bool gain = parameter->kind == ParameterKind::kVector;
    auto* values = parameter->value.mutable_data_ptr<float>();
    for (std::int64_t index = 0; index < parameter->value.numel(); ++index)
      values[index] = float((gain ? 1 : 0) + 0.3 * stream.normal());
  }
}

inline at::Tensor draw_ids(at::IntArrayRef shape, std::int64_t vocab_size, const char* name = "ids") {
  at::Tensor ids = at::zeros(shape, at::kLong);
  RandomStream stream(6, name);
  for (std::int64_t index = 0; index < ids.numel(); ++index)
    ids.mutable_data_ptr<std::int64_t>()[index] = std::int64_t(stream.below(std::uint64_t(vocab_size)));
  return ids;
}

inline Decoder make_decoder(const DecoderOptions& options, std::int64_t vocab_size, std::uint64_t seed = 0) {
  return Decoder(options.specification(vocab_size), fresh_parameters(seed));
}

inline double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

/// The variants of training, and what only the families of others have.
inline std::map<std::string, DecoderSpecification> specifications(std::int64_t vocab_size) {
  std::map<std::string, DecoderSpecification> all;
  for (const Variant& variant : variants()) all[variant.name] = variant.options.specification(vocab_size);
  DecoderSpecification grouped = all["qwen3"];
  const auto add = [&](const char* name, auto&& change) { change(all[name] = grouped); };
  add("windows", [](auto& s) { s.layers[0].sliding_window = 3, s.layers[1].sliding_window = 1; });
  add("a local layer with rotary of its own", [](auto& s) {
    s.rotaries.push_back({.width = 4, .theta = 10});
    s.layers[1] = {4, 1};
  });
  add("soft-capped scores", [](auto& s) { s.attention_softcap = 2; });
  add("soft-capped scores in a window", [](auto& s) {
    s.attention_softcap = 2;
    s.layers[1].sliding_window = 4;
  });
  add("parallel residual", [](auto& s) { s.parallel_residual = true; });
  add("queries and keys normalised over the width", [](auto& s) { s.qk_norm = QueryKeyNorm::kWidth; });
  add("norms on both sides", [](auto& s) { s.norm_position = NormPosition::kBoth; });
  add("queries and keys of each head normalised by weights of its own",
      [](auto& s) { s.qk_norm = QueryKeyNorm::kEachHead; });
  add("a layer without positions behind one norm for both parts", [](auto& s) {
    s.norm = NormKind::kLayer, s.norm_bias = false;
    s.parallel_residual = s.shared_input_norm = true;
    s.layers[1].rotary.reset();
  });
  add("scaled additions of a squared activation",
      [](auto& s) { s.residual_scale = 0.3, s.activation = Activation::kReluSquared, s.gated = false; });
  add("experts behind a plain layer", [](auto& s) {
    s.num_experts = 4, s.num_experts_per_tok = 2, s.moe_intermediate_size = 6, s.norm_topk_prob = true;
    s.layers[1].has_experts = true;
  });
  return all;
}

}  // namespace lmhead
