#include "lmhead/models/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "lmhead/base/error.h"
#include "lmhead/kernels/block_operations.h"
#include "lmhead/kernels/packed_attention.h"
#include "lmhead/models/attention.h"
#include "lmhead/models/decoder_builder.h"

namespace lmhead {
namespace {

at::Tensor project(const at::Tensor& input, const at::Tensor& weight, const ParameterPtr& bias) {
  const at::Tensor x = input.to(weight.scalar_type());
  return bias ? at::linear(x, weight, bias->working) : at::linear(x, weight);
}

at::Tensor activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
  }
  fail("decoder", "an activation must be a known one, got ", int(activation));
}

}  // namespace

Decoder::Decoder(DecoderSpecification specification, const ParameterSource& source)
    : specification_(std::move(specification)) {
  const DecoderSpecification& s = specification_;
  Builder build(*this, source);
  embedding_ = build.matrix("model.embed_tokens.weight", ParameterKind::kEmbedding, s.vocab_size, s.hidden_size);
  if (s.position_embeddings > 0)
    position_embedding_ =
        build.matrix("model.embed_positions.weight", ParameterKind::kEmbedding, s.position_embeddings, s.hidden_size);
  for (std::size_t layer = 0; layer < s.layers.size(); ++layer) blocks_.push_back(build.block(layer));
  if (s.norm_position != NormPosition::kAfterSum) final_norm_ = build.norm("model.norm", s.hidden_size);
  for (const RotarySpecification& rotary : s.rotaries) rotary_tables_.emplace_back(rotary);
}

at::Tensor Decoder::forward(const at::Tensor& tokens, std::vector<at::Tensor>* layers) const {
  return run(tokens, nullptr, layers);
}

at::Tensor Decoder::extend(const at::Tensor& tokens, KeyValueCache& cache) const {
  return run(tokens, &cache, nullptr);
}

at::Tensor Decoder::run(const at::Tensor& tokens, KeyValueCache* cache, std::vector<at::Tensor>* layers) const {
  require(tokens.dim() == 2, "decoder", "tokens must be [B, T], got ", tokens.sizes());
  const Pass pass{.batch = tokens.size(0),
                  .type = (blocks_.empty() ? embedding_ : blocks_[0].query_key_value.weight)->working.scalar_type(),
                  .first = cache ? cache->length() : 0,
                  .cache = cache};
  const std::int64_t length = pass.first + tokens.size(1);
  for (RotaryTable& table : rotary_tables_) table.reserve(length, embedding_->value.device());
  at::Tensor x = embed(tokens, pass.first);
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    x = apply(layer, x, pass);
    if (layers) layers->push_back(x);
  }
  if (cache) cache->advance(tokens.size(1));
  return normalise(final_norm_, x, pass.type).to(pass.type);
}

/// The first token of `tokens` stands at position `first`.
at::Tensor Decoder::embed(const at::Tensor& tokens, std::int64_t first) const {
  const std::int64_t length = first + tokens.size(1);
  at::Tensor x = at::embedding(embedding_->value, tokens);
  if (specification_.embedding_scale != 1) x = x * specification_.embedding_scale;
  if (position_embedding_) {
    require(length <= specification_.position_embeddings, "decoder",
            "a sequence must be no longer than model.max_position_embeddings ", specification_.position_embeddings,
            ", got ", length);
    x = x + position_embedding_->value.narrow(0, first, tokens.size(1));
  }
  return x.view({-1, specification_.hidden_size});
}

at::Tensor Decoder::apply(std::size_t layer, const at::Tensor& x, const Pass& pass) const {
  const Block& block = blocks_[layer];
  const bool after_sum = specification_.norm_position == NormPosition::kAfterSum;
  const auto join = [&](const at::Tensor& stream, const at::Tensor& update, const Norm& norm) {
    return after_sum ? normalise(norm, stream + update, at::kFloat) : stream + normalise(norm, update, at::kFloat);
  };
  const at::Tensor attended = attend(layer, normalise(block.attention_input_norm, x, pass.type), pass);
  at::Tensor stream = join(x, attended, block.attention_output_norm);
  const at::Tensor& mlp_input = specification_.parallel_residual ? x : stream;
  return join(stream, transform(block, normalise(block.mlp_input_norm, mlp_input, pass.type)), block.mlp_output_norm);
}

/// The input itself where there is no norm.
at::Tensor Decoder::normalise(const Norm& norm, const at::Tensor& input, at::ScalarType type) const {
  if (!norm.weight) return input;
  if (!norm.bias) return rms_norm(input, norm.weight->working, specification_.norm_eps, type);
  return at::layer_norm(input.to(at::kFloat), {specification_.hidden_size}, norm.weight->working, norm.bias->working,
                        specification_.norm_eps)
      .to(type);
}

/// Normalises queries and keys in `projected` [B, T, H + 2 K, d].
at::Tensor Decoder::normalise_heads(const Block& block, const at::Tensor& projected) const {
  const std::int64_t queries = specification_.num_attention_heads, keys = specification_.num_key_value_heads;
  const auto parts = projected.split_with_sizes({queries, keys, keys}, 2);
  const auto norm = [&](const at::Tensor& heads, const ParameterPtr& weight) {
    const bool is_width = specification_.qk_norm == QueryKeyNorm::kWidth;
    const at::Tensor rows = is_width ? heads.flatten(2) : heads.contiguous();
    return rms_norm(rows, weight->working, specification_.norm_eps, projected.scalar_type()).view_as(heads);
  };
  return at::cat(std::vector<at::Tensor>{norm(parts[0], block.query_norm), norm(parts[1], block.key_norm), parts[2]},
                 2);
}

at::Tensor Decoder::attend(std::size_t layer, const at::Tensor& input, const Pass& pass) const {
  const DecoderSpecification& s = specification_;
  const Block& block = blocks_[layer];
  const std::int64_t length = input.size(0) / pass.batch, queries = s.num_attention_heads, keys = s.num_key_value_heads;
  at::Tensor projected = project(input, block.query_key_value.weight->working, block.query_key_value.bias)
                             .view({pass.batch, length, queries + 2 * keys, s.head_dim});
  if (block.query_norm) projected = normalise_heads(block, projected);
  if (!rotary_tables_.empty()) {
    const RotaryTable& table = rotary_tables_[block.layer.rotary];
    projected = rotary(projected, table.cosine(length, pass.first), table.sine(length, pass.first), queries + keys);
  }
  const bool is_whole = !pass.cache && s.attention_softcap == 0 &&
                        (block.layer.sliding_window == 0 || block.layer.sliding_window >= length);
  if (is_whole)
    return project(packed_causal_attention(projected, queries, s.attention_scale),
                   block.attention_output.weight->working, block.attention_output.bias);
  const auto parts = projected.split_with_sizes({queries, keys, keys}, 2);
  const auto seen =
      pass.cache ? pass.cache->append(layer, parts[1], parts[2]) : KeyValueCache::KeysAndValues{parts[1], parts[2]};
  const at::Tensor mixed = causal_attention(parts[0], seen.keys, seen.values,
                                            {s.attention_scale, s.attention_softcap, block.layer.sliding_window});
  return project(mixed, block.attention_output.weight->working, block.attention_output.bias);
}

at::Tensor Decoder::transform(const Block& block, const at::Tensor& input) const {
  const at::Tensor inner = project(input, block.mlp_input.weight->working, block.mlp_input.bias);
  const auto active = [&] {
    if (!specification_.gated) return activate(specification_.activation, inner);
    if (specification_.activation == Activation::kSilu) return swiglu(inner);
    const auto halves = inner.chunk(2, -1);
    return activate(specification_.activation, halves[0]) * halves[1];
  };
  return project(active(), block.mlp_output.weight->working, block.mlp_output.bias);
}

}  // namespace lmhead
