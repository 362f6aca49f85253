#include "lmhead/models/decoder_builder.h"

namespace lmhead {

ParameterPtr Decoder::Builder::add(const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                                   const Initializer& initializer, const std::vector<RowPart>& parts) {
  decoder_.parameters_.push_back(source_(name, kind, shape, initializer, parts));
  return decoder_.parameters_.back();
}

ParameterPtr Decoder::Builder::matrix(const std::string& name, ParameterKind kind, std::int64_t rows,
                                      std::int64_t columns) {
  return add(name, kind, {rows, columns}, normal_initializer(specification_.initializer_range));
}

Decoder::Norm Decoder::Builder::norm(const std::string& name, std::int64_t width) {
  Norm norm;
  if (specification_.norm == NormKind::kNone) return norm;
  norm.weight = add(name + ".weight", ParameterKind::kVector, {width}, constant_initializer(1));
  if (specification_.norm == NormKind::kLayer && specification_.norm_bias)
    norm.bias = add(name + ".bias", ParameterKind::kVector, {width}, constant_initializer(0));
  return norm;
}

/// A projection whose output rows are the concatenation of `parts` (name, rows), under one prefix.
Decoder::Projection Decoder::Builder::projection(const std::string& prefix, const std::string& name,
                                                 std::int64_t inputs, const std::vector<RowPart>& parts, bool bias,
                                                 double deviation) {
  std::int64_t rows = 0;
  std::vector<RowPart> weights, biases;
  for (const RowPart& part : parts) {
    rows += part.rows;
    weights.push_back({prefix + part.name + ".weight", part.rows});
    biases.push_back({prefix + part.name + ".bias", part.rows});
  }
  if (parts.size() == 1) weights.clear(), biases.clear();
  Projection projection;
  projection.weight =
      add(prefix + name + ".weight", ParameterKind::kMatrix, {rows, inputs}, normal_initializer(deviation), weights);
  if (bias)
    projection.bias = add(prefix + name + ".bias", ParameterKind::kBias, {rows}, constant_initializer(0), biases);
  return projection;
}

void Decoder::Builder::add_attention(Block& block, const std::string& prefix) {
  const DecoderSpecification& s = specification_;
  const std::int64_t queries = s.num_attention_heads * s.head_dim, keys = s.num_key_value_heads * s.head_dim;
  block.query_key_value =
      projection(prefix, "qkv_proj", s.hidden_size, {{"q_proj", queries}, {"k_proj", keys}, {"v_proj", keys}},
                 s.query_key_value_bias, s.initializer_range);
  block.attention_output = projection(prefix, "o_proj", queries, {{"o_proj", s.hidden_size}}, s.attention_output_bias,
                                      s.residual_initializer_range);
  if (s.qk_norm == QueryKeyNorm::kNone) return;
  const auto norm_of = [&](const std::string& letter, std::int64_t width) {
    std::vector<RowPart> parts;
    if (s.qk_norm == QueryKeyNorm::kEachHead)
      for (std::int64_t head = 0; head < width / s.head_dim; ++head)
        parts.push_back({prefix + letter + "_layernorm.norms." + std::to_string(head) + ".weight", s.head_dim});
    return add(prefix + letter + "_norm.weight", ParameterKind::kVector,
               {s.qk_norm == QueryKeyNorm::kHead ? s.head_dim : width}, constant_initializer(1), parts);
  };
  block.query_norm = norm_of("q", queries);
  block.key_norm = norm_of("k", keys);
}

void Decoder::Builder::add_experts(Block& block, const std::string& prefix) {
  const DecoderSpecification& s = specification_;
  const std::int64_t inner = s.moe_intermediate_size;
  std::vector<RowPart> inputs, outputs;
  for (std::int64_t expert = 0; expert < s.num_experts; ++expert) {
    const std::string name = "experts." + std::to_string(expert) + ".";
    inputs.push_back({name + "gate_proj", inner});
    inputs.push_back({name + "up_proj", inner});
    outputs.push_back({name + "down_proj", s.hidden_size});
  }
  block.router = matrix(prefix + "gate.weight", ParameterKind::kMatrix, s.num_experts, s.hidden_size);
  block.mlp_input = projection(prefix, "experts.gate_up_proj", s.hidden_size, inputs, false, s.initializer_range);
  // A single part goes by the whole's name.
  block.mlp_output = projection(prefix, s.num_experts == 1 ? outputs[0].name : "experts.down_proj", inner, outputs,
                                false, s.residual_initializer_range);
}

void Decoder::Builder::add_mlp(Block& block, const std::string& prefix) {
  const DecoderSpecification& s = specification_;
  if (block.layer.has_experts) return add_experts(block, prefix);
  const std::int64_t inner = s.intermediate_size;
  block.mlp_input =
      s.gated ? projection(prefix, "gate_up_proj", s.hidden_size, {{"gate_proj", inner}, {"up_proj", inner}},
                           s.mlp_bias, s.initializer_range)
              : projection(prefix, "up_proj", s.hidden_size, {{"up_proj", inner}}, s.mlp_bias, s.initializer_range);
  block.mlp_output =
      projection(prefix, "down_proj", inner, {{"down_proj", s.hidden_size}}, s.mlp_bias, s.residual_initializer_range);
}

Decoder::Block Decoder::Builder::block(std::size_t layer) {
  const DecoderSpecification& s = specification_;
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const auto norm_named = [&](const char* name) { return norm(prefix + name, s.hidden_size); };
  const bool both = s.norm_position == NormPosition::kBoth, after = s.norm_position == NormPosition::kAfter;
  const bool after_sum = s.norm_position == NormPosition::kAfterSum;

  Block block;
  block.layer = s.layers[layer];
  if (!after) (after_sum ? block.attention_output_norm : block.attention_input_norm) = norm_named("input_layernorm");
  add_attention(block, prefix + "self_attn.");
  // What Llama calls post_attention_layernorm stands before the MLP; what OLMo 2 and Gemma call so, after the
  // attention.
  if (both || after) block.attention_output_norm = norm_named("post_attention_layernorm");
  if (both) block.mlp_input_norm = norm_named("pre_feedforward_layernorm");
  if (!both && !after && !s.shared_input_norm)
    (after_sum ? block.mlp_output_norm : block.mlp_input_norm) = norm_named("post_attention_layernorm");
  add_mlp(block, prefix + "mlp.");
  if (both || after) block.mlp_output_norm = norm_named("post_feedforward_layernorm");
  return block;
}

}  // namespace lmhead
