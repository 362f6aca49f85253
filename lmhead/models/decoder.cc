#include "lmhead/models/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sin.h>

#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/kernels/block_operations.h"

namespace lmhead {
namespace {

at::Tensor project(const at::Tensor& input, const at::Tensor& weight, const ParameterPtr& bias) {
  const at::Tensor x = input.to(weight.scalar_type());
  return bias ? at::linear(x, weight, bias->working) : at::linear(x, weight);
}

}  // namespace

/// Makes parameters under Hugging Face's Llama names and lists them in order.
class Decoder::Builder {
 public:
  Builder(Decoder& decoder, const ParameterFactory& factory) : decoder_(decoder), factory_(factory) {}

  ParameterPtr add(ParameterPtr parameter) {
    decoder_.parameters_.push_back(parameter);
    return parameter;
  }
  Norm norm(const std::string& name, std::int64_t width) {
    Norm norm;
    norm.weight = add(factory_.make(name + ".weight", ParameterKind::kVector, {width}, constant_initializer(1)));
    if (decoder_.options_.norm == "layernorm")
      norm.bias = add(factory_.make(name + ".bias", ParameterKind::kVector, {width}, constant_initializer(0)));
    return norm;
  }
  /// A projection whose output rows are the concatenation of `parts` (name, rows), under one prefix.
  Projection projection(const std::string& prefix, const std::string& name, std::int64_t inputs,
                        const std::vector<RowPart>& parts, bool bias, double deviation) {
    std::int64_t rows = 0;
    std::vector<RowPart> weights, biases;
    for (const RowPart& part : parts) {
      rows += part.rows;
      weights.push_back({prefix + part.name + ".weight", part.rows});
      biases.push_back({prefix + part.name + ".bias", part.rows});
    }
    if (parts.size() == 1) weights.clear(), biases.clear();
    Projection projection;
    projection.weight = add(factory_.make(prefix + name + ".weight", ParameterKind::kMatrix, {rows, inputs},
                                          normal_initializer(deviation), weights));
    if (bias)
      projection.bias = add(
          factory_.make(prefix + name + ".bias", ParameterKind::kBias, {rows}, constant_initializer(0), biases));
    return projection;
  }
  Block block(std::int64_t layer) {
    const DecoderOptions& o = decoder_.options_;
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const std::int64_t head = o.resolved_head_dim(), inner = o.resolved_intermediate_size();
    const std::int64_t queries = o.num_attention_heads * head, keys = o.resolved_num_key_value_heads() * head;
    const double plain = o.initializer_range;
    const double residual = o.initializer == "gpt2" ? plain / std::sqrt(2.0 * double(o.num_hidden_layers)) : plain;
    Block block;
    block.attention_norm = norm(prefix + "input_layernorm", o.hidden_size);
    block.query_key_value =
        projection(prefix + "self_attn.", "qkv_proj", o.hidden_size,
                   {{"q_proj", queries}, {"k_proj", keys}, {"v_proj", keys}}, o.attention_bias, plain);
    block.attention_output =
        projection(prefix + "self_attn.", "o_proj", queries, {{"o_proj", o.hidden_size}}, o.attention_bias, residual);
    if (o.qk_norm) {
      block.query_norm = add(factory_.make(prefix + "self_attn.q_norm.weight", ParameterKind::kVector, {head},
                                           constant_initializer(1)));
      block.key_norm = add(factory_.make(prefix + "self_attn.k_norm.weight", ParameterKind::kVector, {head},
                                         constant_initializer(1)));
    }
    block.mlp_norm = norm(prefix + "post_attention_layernorm", o.hidden_size);
    block.mlp_input =
        o.activation == "swiglu"
            ? projection(prefix + "mlp.", "gate_up_proj", o.hidden_size, {{"gate_proj", inner}, {"up_proj", inner}},
                         o.mlp_bias, plain)
            : projection(prefix + "mlp.", "up_proj", o.hidden_size, {{"up_proj", inner}}, o.mlp_bias, plain);
    block.mlp_output = projection(prefix + "mlp.", "down_proj", inner, {{"down_proj", o.hidden_size}}, o.mlp_bias,
                                  residual);
    return block;
  }

 private:
  Decoder& decoder_;
  const ParameterFactory& factory_;
};

Decoder::Decoder(const DecoderOptions& options, std::int64_t vocab_size, const ParameterFactory& factory)
    : options_(options) {
  options_.check();
  Builder build(*this, factory);
  const double range = options_.initializer_range;
  embedding_ = build.add(factory.make("model.embed_tokens.weight", ParameterKind::kEmbedding,
                                      {vocab_size, options_.hidden_size}, normal_initializer(range)));
  if (options_.position == "learned")
    position_embedding_ =
        build.add(factory.make("model.embed_positions.weight", ParameterKind::kEmbedding,
                               {options_.max_position_embeddings, options_.hidden_size}, normal_initializer(range)));
  for (std::int64_t layer = 0; layer < options_.num_hidden_layers; ++layer) blocks_.push_back(build.block(layer));
  if (options_.norm_position != "post") final_norm_ = build.norm("model.norm", options_.hidden_size);
}

at::Tensor Decoder::forward(const at::Tensor& tokens, std::vector<at::Tensor>* layers) const {
  require(tokens.dim() == 2, "decoder", "tokens must be [B, T], got ", tokens.sizes());
  const std::int64_t batch = tokens.size(0), length = tokens.size(1);
  const auto type = blocks_.empty() ? at::kFloat : blocks_[0].query_key_value.weight->working.scalar_type();
  const bool pre = options_.norm_position == "pre", post = options_.norm_position == "post";

  at::Tensor x = at::embedding(embedding_->value, tokens);
  if (position_embedding_) {
    require(length <= options_.max_position_embeddings, "decoder",
            "a sequence must be no longer than model.max_position_embeddings ", options_.max_position_embeddings,
            ", got ", length);
    x = x + position_embedding_->value.narrow(0, 0, length);
  }
  x = x.view({batch * length, options_.hidden_size});
  if (options_.position == "rotary") prepare_rotation(length);

  const auto add_sublayer = [&](const Norm& norm, auto&& sublayer) {
    const at::Tensor update = sublayer(pre ? normalise(norm, x, type) : x);
    if (pre) return x + update;
    if (post) return normalise(norm, x + update, at::kFloat);
    return x + normalise(norm, update, at::kFloat);
  };
  for (const Block& block : blocks_) {
    x = add_sublayer(block.attention_norm, [&](const at::Tensor& in) { return attend(block, in, batch, length); });
    x = add_sublayer(block.mlp_norm, [&](const at::Tensor& in) { return transform(block, in); });
    if (layers) layers->push_back(x);
  }
  return final_norm_.weight ? normalise(final_norm_, x, type) : x.to(type);
}

at::Tensor Decoder::normalise(const Norm& norm, const at::Tensor& input, at::ScalarType type) const {
  if (!norm.bias) return rms_norm(input, norm.weight->working, options_.norm_eps, type);
  return at::layer_norm(input.to(at::kFloat), {options_.hidden_size}, norm.weight->working, norm.bias->working,
                        options_.norm_eps)
      .to(type);
}

at::Tensor Decoder::attend(const Block& block, const at::Tensor& input, std::int64_t batch, std::int64_t length) const {
  const std::int64_t head = options_.resolved_head_dim(), queries = options_.num_attention_heads;
  const std::int64_t keys = options_.resolved_num_key_value_heads();
  at::Tensor projected =
      project(input, block.query_key_value.weight->working, block.query_key_value.bias)
          .view({batch, length, queries + 2 * keys, head});
  if (options_.qk_norm) {
    const auto parts = projected.split_with_sizes({queries, keys, keys}, 2);
    const auto type = projected.scalar_type();
    projected = at::cat(
        std::vector<at::Tensor>{
            rms_norm(parts[0].contiguous(), block.query_norm->working, options_.norm_eps, type),
            rms_norm(parts[1].contiguous(), block.key_norm->working, options_.norm_eps, type), parts[2]},
        2);
  }
  if (options_.position == "rotary")
    projected = rotary(projected, cosine_.narrow(0, 0, length), sine_.narrow(0, 0, length), queries + keys);
  const auto parts = projected.split_with_sizes({queries, keys, keys}, 2);
  const auto spread = [&](const at::Tensor& shared) {  // a key head serves queries / keys query heads
    return keys == queries ? shared.transpose(1, 2)
                           : shared.unsqueeze(3)
                                 .expand({batch, length, keys, queries / keys, head})
                                 .reshape({batch, length, queries, head})
                                 .transpose(1, 2);
  };
  const at::Tensor mixed = at::scaled_dot_product_attention(parts[0].transpose(1, 2), spread(parts[1]),
                                                            spread(parts[2]), {}, 0.0, /*is_causal=*/true);
  return project(mixed.transpose(1, 2).reshape({batch * length, queries * head}),
                 block.attention_output.weight->working, block.attention_output.bias);
}

at::Tensor Decoder::transform(const Block& block, const at::Tensor& input) const {
  const at::Tensor inner = project(input, block.mlp_input.weight->working, block.mlp_input.bias);
  const at::Tensor active = options_.activation == "swiglu" ? swiglu(inner) : at::gelu(inner, "tanh");
  return project(active, block.mlp_output.weight->working, block.mlp_output.bias);
}

void Decoder::prepare_rotation(std::int64_t length) const {
  if (cosine_.defined() && cosine_.size(0) >= length && cosine_.device() == embedding_->value.device()) return;
  const std::int64_t head = options_.resolved_head_dim();
  const auto options = at::TensorOptions().dtype(at::kFloat);
  // float32 frequencies, as published: float64 ones would differ from every released checkpoint in the last digits.
  const at::Tensor frequencies = 1.0 / at::pow(options_.rope_theta, at::arange(0, head, 2, options) / double(head));
  const at::Tensor angles = at::arange(length, options).unsqueeze(1) * frequencies.unsqueeze(0);
  cosine_ = angles.cos().to(embedding_->value.device());
  sine_ = angles.sin().to(embedding_->value.device());
}

}  // namespace lmhead
