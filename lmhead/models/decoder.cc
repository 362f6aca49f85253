#include "lmhead/models/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include <algorithm>
#include <utility>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/kernels/block_operations.h"
#include "lmhead/kernels/packed_attention.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/projection.h"
#include "lmhead/models/attention.h"
#include "lmhead/models/decoder_builder.h"
#include "lmhead/models/experts.h"
#include "lmhead/models/recomputed_block.h"
#include "lmhead/models/shared_embedding.h"
#include "lmhead/models/tree_attention.h"

namespace lmhead {
namespace {

constexpr std::int64_t kInnerRows = 1024;  // of an MLP's inner width at once, where nothing is to be differentiated

at::Tensor project(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  return projection(input.to(weight.scalar_type()), weight, bias);
}
at::Tensor project(const at::Tensor& input, const at::Tensor& weight, const ParameterPtr& bias) {
  return project(input, weight, bias ? bias->working : at::Tensor());
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
    case Activation::kReluSquared:
      return at::relu(x).square();
  }
  fail("decoder", "an activation must be a known one, got ", int(activation));
}

/// A block whose parameters are in memory as long as this is.
class LoadedBlock {
 public:
  LoadedBlock(BlockSource* source, std::size_t layer) : source_(source), layer_(layer) {
    if (source_) source_->load(layer_);
  }
  ~LoadedBlock() {
    if (source_) source_->release(layer_);
  }
  LoadedBlock(const LoadedBlock&) = delete;
  LoadedBlock& operator=(const LoadedBlock&) = delete;

 private:
  BlockSource* source_;
  std::size_t layer_;
};

}  // namespace

Decoder::Decoder(DecoderSpecification specification, const ParameterSource& source)
    : specification_(std::move(specification)) {
  const DecoderSpecification& s = specification_;
  Builder build(*this, source);
  embedding_ = build.matrix("model.embed_tokens.weight", ParameterKind::kEmbedding, s.vocab_size, s.hidden_size);
  if (s.position_embeddings > 0)
    position_embedding_ =
        build.matrix("model.embed_positions.weight", ParameterKind::kEmbedding, s.position_embeddings, s.hidden_size);
  for (std::size_t layer = 0; layer < s.layers.size(); ++layer) {
    block_begins_.push_back(parameters_.size());
    blocks_.push_back(build.block(layer));
  }
  block_begins_.push_back(parameters_.size());
  if (s.norm_position != NormPosition::kAfterSum) final_norm_ = build.norm("model.norm", s.hidden_size);
  for (const RotarySpecification& rotary : s.rotaries) rotary_tables_.push_back(std::make_unique<RotaryTable>(rotary));
}

at::Tensor Decoder::forward(const at::Tensor& tokens, std::vector<at::Tensor>* layers) const {
  require(tokens.dim() == 2, "decoder", "tokens must be [B, T], got ", tokens.sizes());
  return run(tokens, {.batch = tokens.size(0), .length = tokens.size(1)}, layers);
}

at::Tensor Decoder::extend(const at::Tensor& tokens, KeyValueCache& cache, std::vector<at::Tensor>* layers) const {
  require(tokens.dim() == 2, "decoder", "tokens must be [B, T], got ", tokens.sizes());
  const std::int64_t first = cache.length();
  require(keeps_keys(first, first + tokens.size(1)), "decoder",
          "a sequence must go on at most as far as its rotary "
          "frequencies stay, got ",
          first + tokens.size(1), " tokens after ", first);
  const at::Tensor hidden =
      run(tokens, {.batch = tokens.size(0), .first = first, .length = first + tokens.size(1), .cache = &cache}, layers);
  cache.advance(tokens.size(1));
  return hidden;
}

bool Decoder::keeps_keys(std::int64_t seen, std::int64_t length) const {
  return seen == 0 || std::ranges::all_of(specification_.rotaries, [&](const RotarySpecification& rotary) {
           return deciding_length(rotary, seen) == deciding_length(rotary, length);
         });
}

std::vector<Decoder::BatchFeatures> Decoder::forward_trees(const std::vector<TokenTrees>& trees,
                                                           const std::vector<std::int64_t>& kept_layers) const {
  std::vector<Stream> streams;
  for (const TokenTrees& own : trees) {
    require(keeps_keys(1, own.depth), "decoder",
            "sequences that are scored must be so short that rotary frequencies do "
            "not follow their length, got ",
            own.depth, " tokens");
    streams.push_back(
        {own.tokens.unsqueeze(0), {.batch = 1, .positions = own.positions, .length = own.depth, .trees = &own}});
  }
  std::vector<BatchFeatures> all(streams.size(), {{}, std::vector<at::Tensor>(kept_layers.size())});
  run(streams, [&](std::size_t layer, std::size_t index) {
    const at::Tensor& rows = trees[index].rows;
    const bool has_others = rows.defined() && layer + 1 < blocks_.size();
    for (std::size_t place = 0; place < kept_layers.size(); ++place) {
      const at::Tensor& features = streams[index].features;
      if (kept_layers[place] == std::int64_t(layer))
        all[index].layers[place] = has_others ? features.index_select(0, rows) : features;
    }
  });
  for (std::size_t index = 0; index < all.size(); ++index) {
    const at::ScalarType type = streams[index].pass.type;
    at::Tensor features = std::exchange(streams[index].features, {});
    if (blocks_.empty() && trees[index].rows.defined()) features = features.index_select(0, trees[index].rows);
    all[index].hidden = normalise(final_norm_, features, type).to(type);
  }
  return all;
}

ParameterList Decoder::block_parameters(std::size_t layer) const {
  return {parameters_.begin() + std::ptrdiff_t(block_begins_.at(layer)),
          parameters_.begin() + std::ptrdiff_t(block_begins_.at(layer + 1))};
}

std::vector<Decoder::BatchFeatures> Decoder::forward_batches(const std::vector<at::Tensor>& batches,
                                                             const BatchesOptions& options) const {
  std::vector<Stream> streams;
  for (const at::Tensor& tokens : batches) {
    require(tokens.dim() == 2, "decoder", "tokens must be [B, T], got ", tokens.sizes());
    streams.push_back({tokens, {.batch = tokens.size(0), .length = tokens.size(1)}});
  }
  const std::vector<std::int64_t>& kept = options.kept_layers;
  require(options.layers_done <= blocks_.size() && (options.layers_done == 0 || kept.empty()) &&
              (options.layers_done == 0 || options.features.size() == streams.size()),
          "decoder", "a pass must go on with the features of each of its ", streams.size(), " batches, got ",
          options.features.size());
  for (std::size_t batch = 0; options.layers_done > 0 && batch < streams.size(); ++batch)
    streams[batch].features = on_device(options.features[batch], device());
  std::vector<BatchFeatures> all(streams.size(), {{}, std::vector<at::Tensor>(kept.size())});
  const auto after = [&](std::size_t layer, std::size_t batch) {
    for (std::size_t index = 0; index < kept.size(); ++index)
      if (kept[index] == std::int64_t(layer)) all[batch].layers[index] = streams[batch].features;
    if (options.after_batch) options.after_batch(layer, batch);
    if (!options.after_layer || batch + 1 < streams.size()) return;
    std::vector<at::Tensor> features;
    for (const Stream& stream : streams) features.push_back(stream.features);
    options.after_layer(layer + 1, features);
  };
  run(streams, after, options.layers_done);
  for (std::size_t batch = 0; batch < all.size(); ++batch)
    all[batch].hidden = normalise(final_norm_, std::exchange(streams[batch].features, {}), at::kFloat).to(at::kFloat);
  return all;
}

at::Tensor Decoder::run(const at::Tensor& tokens, Pass pass, std::vector<at::Tensor>* layers) const {
  std::vector<Stream> streams = {{tokens, std::move(pass)}};
  Stream& stream = streams[0];
  run(streams, [&](std::size_t, std::size_t) {
    if (layers) layers->push_back(stream.features);
  });
  return normalise(final_norm_, stream.features, stream.pass.type).to(stream.pass.type);
}

/// The features of every stream after the last block; where some are done, from those after them.
void Decoder::run(std::vector<Stream>& streams, const AfterBlock& after, std::size_t first_layer) const {
  for (Stream& stream : streams) {
    Pass& pass = stream.pass;
    for (const auto& table : rotary_tables_) {
      const RotaryRows rows = table->rows(pass.length, device());
      pass.rotaries.push_back(pass.positions.defined() ? rows.select(pass.positions)
                                                       : rows.narrow(pass.first, stream.tokens.size(1)));
    }
    if (first_layer == 0) stream.features = embed(stream.tokens, pass);
  }
  if (blocks_.empty())
    for (Stream& stream : streams) stream.pass.type = embedding_->working.scalar_type();
  for (std::size_t layer = first_layer; layer < blocks_.size(); ++layer) {
    const LoadedBlock loaded(source_.get(), layer);
    for (std::size_t index = 0; index < streams.size(); ++index) {
      auto& [tokens, pass, x] = streams[index];
      pass.type = blocks_[layer].query_key_value.weight->working.scalar_type();
      x = recomputes_blocks_ && !pass.cache && !pass.trees
              ? recomputed([this, layer, pass = pass](const at::Tensor& input) { return apply(layer, input, pass); }, x)
              : apply(layer, x, pass);
      after(layer, index);
    }
  }
}

at::Tensor Decoder::look_up(const at::Tensor& tokens) const {
  return shared_embedding(embedding_->value, tokens, specification_.vocab_size, word_processes_);
}

void Decoder::look_up_nothing() const {
  look_up(at::empty({0}, embedding_->value.options().dtype(at::kLong).requires_grad(false)));
}

at::Tensor Decoder::embed(const at::Tensor& tokens, const Pass& pass) const {
  at::Tensor x = source_ ? source_->embedding_rows(tokens) : at::Tensor();
  if (!x.defined()) x = look_up(tokens);
  if (x.scalar_type() == at::kBFloat16) x = x.to(at::kFloat);  // of what was read in that type
  if (specification_.embedding_scale != 1) x = x * specification_.embedding_scale;
  if (position_embedding_) {
    require(pass.length <= specification_.position_embeddings, "decoder",
            "a sequence must be no longer than model.max_position_embeddings ", specification_.position_embeddings,
            ", got ", pass.length);
    const at::Tensor& table = position_embedding_->value;
    x = x + (pass.positions.defined() ? table.index_select(0, pass.positions)
                                      : table.narrow(0, pass.first, tokens.size(1)));
  }
  return x.view({-1, specification_.hidden_size});
}

/// Behind the last block, features of tokens that nobody asks for are not computed.
at::Tensor Decoder::apply(std::size_t layer, const at::Tensor& features, const Pass& pass) const {
  const Block& block = blocks_[layer];
  const bool is_narrowed = layer + 1 == blocks_.size() && pass.trees && pass.trees->rows.defined();
  const auto asked = [&](const at::Tensor& all) { return is_narrowed ? all.index_select(0, pass.trees->rows) : all; };
  const bool after_sum = specification_.norm_position == NormPosition::kAfterSum;
  const auto join = [&](const at::Tensor& stream, const at::Tensor& update, const Norm& norm) {
    if (after_sum) return normalise(norm, stream + update, at::kFloat);
    const at::Tensor added = normalise(norm, update, at::kFloat);
    return stream + (specification_.residual_scale == 1 ? added : added * specification_.residual_scale);
  };
  const at::Tensor attention_input = normalise(block.attention_input_norm, features, pass.type), x = asked(features);
  const at::Tensor attended =
      is_narrowed ? attend_rows(layer, attention_input, pass) : attend(layer, attention_input, pass);
  const at::Tensor stream = join(x, attended, block.attention_output_norm);
  const at::Tensor mlp_input =
      specification_.shared_input_norm
          ? asked(attention_input)
          : normalise(block.mlp_input_norm, specification_.parallel_residual ? x : stream, pass.type);
  return join(stream, transform(block, mlp_input), block.mlp_output_norm);
}

/// The input itself where there is no norm.
at::Tensor Decoder::normalise(const Norm& norm, const at::Tensor& input, at::ScalarType type) const {
  if (!norm.weight) return input;
  if (specification_.norm == NormKind::kRms)
    return rms_norm(input, norm.weight->working, specification_.norm_eps, type);
  return at::layer_norm(input.to(at::kFloat), {specification_.hidden_size}, norm.weight->working,
                        norm.bias ? std::optional(norm.bias->working) : std::nullopt, specification_.norm_eps)
      .to(type);
}

/// Normalises queries or keys [B, T, H, d].
at::Tensor Decoder::normalise_heads(const at::Tensor& heads, const at::Tensor& weight) const {
  const double eps = specification_.norm_eps;
  if (specification_.qk_norm == QueryKeyNorm::kEachHead) {
    const at::Tensor rows = at::layer_norm(heads.to(at::kFloat), {heads.size(3)}, {}, {}, eps);
    return (rows * weight.view({heads.size(2), heads.size(3)})).to(heads.scalar_type());
  }
  const bool is_width = specification_.qk_norm == QueryKeyNorm::kWidth;
  const at::Tensor rows = is_width ? heads.flatten(2) : heads.contiguous();
  return rms_norm(rows, weight, eps, heads.scalar_type()).view_as(heads);
}

at::Tensor Decoder::attend(std::size_t layer, const at::Tensor& input, const Pass& pass) const {
  const DecoderSpecification& s = specification_;
  const Block& block = blocks_[layer];
  const std::int64_t length = input.size(0) / pass.batch, queries = s.num_attention_heads, keys = s.num_key_value_heads;
  at::Tensor projected = project(input, block.query_key_value.weight->working, block.query_key_value.bias)
                             .view({pass.batch, length, queries + 2 * keys, s.head_dim});
  if (block.query_norm) {
    const auto parts = projected.split_with_sizes({queries, keys, keys}, 2);
    projected = at::cat(std::vector<at::Tensor>{normalise_heads(parts[0], block.query_norm->working),
                                                normalise_heads(parts[1], block.key_norm->working), parts[2]},
                        2);
  }
  if (!pass.rotaries.empty() && block.layer.rotary) {
    const RotaryRows& rows = pass.rotaries[*block.layer.rotary];
    projected = rotary(projected, rows.cosine, rows.sine, queries + keys);
  }
  at::Tensor mixed;
  if (pass.trees) {
    const auto parts = projected[0].split_with_sizes({queries, keys, keys}, 1);
    mixed = tree_attention({parts[0], parts[1], parts[2]}, *pass.trees, attention_options(layer));
  } else {
    mixed = mix(layer, projected, pass.cache);
  }
  return project(mixed, block.attention_output.weight->working, block.attention_output.bias);
}

/// Causal attention of whole sequences `projected` [B, T, H + 2 K, d], behind what `cache` has where there is one.
at::Tensor Decoder::mix(std::size_t layer, const at::Tensor& projected, KeyValueCache* cache) const {
  const DecoderSpecification& s = specification_;
  const std::int64_t queries = s.num_attention_heads, keys = s.num_key_value_heads;
  const std::int64_t window = blocks_[layer].layer.sliding_window;
  const bool is_packed = !cache && s.attention_softcap == 0 && (window == 0 || window >= projected.size(1));
  if (is_packed && has_packed_kernel(projected)) return packed_causal_attention(projected, queries, s.attention_scale);
  if (!cache && !needs_derivatives({projected}) && has_tree_kernel(projected, attention_options(layer)))
    return chain_attention(projected, queries, attention_options(layer));
  if (is_packed) return packed_causal_attention(projected, queries, s.attention_scale);
  const auto parts = projected.split_with_sizes({queries, keys, keys}, 2);
  const auto seen = cache ? cache->append(layer, parts[1], parts[2]) : KeyValueCache::KeysAndValues{parts[1], parts[2]};
  return causal_attention(parts[0], seen.keys, seen.values, attention_options(layer));
}

/// The same of those tokens alone that are asked for: queries of the others are not computed.
at::Tensor Decoder::attend_rows(std::size_t layer, const at::Tensor& input, const Pass& pass) const {
  const DecoderSpecification& s = specification_;
  const Block& block = blocks_[layer];
  const std::int64_t queries = s.num_attention_heads, keys = s.num_key_value_heads;
  const at::Tensor& rows = pass.trees->rows;
  const auto heads = [&](const at::Tensor& from, std::int64_t first, std::int64_t count) {
    const auto part = [&](const at::Tensor& all) { return all.narrow(0, first * s.head_dim, count * s.head_dim); };
    const ParameterPtr& bias = block.query_key_value.bias;
    return project(from, part(block.query_key_value.weight->working), bias ? part(bias->working) : at::Tensor())
        .view({1, from.size(0), count, s.head_dim});
  };
  at::Tensor query = heads(input.index_select(0, rows), 0, queries), shared = heads(input, queries, 2 * keys);
  if (block.query_norm) {
    const auto parts = shared.split_with_sizes({keys, keys}, 2);
    query = normalise_heads(query, block.query_norm->working);
    shared = at::cat(std::vector<at::Tensor>{normalise_heads(parts[0], block.key_norm->working), parts[1]}, 2);
  }
  if (!pass.rotaries.empty() && block.layer.rotary) {
    const RotaryRows &all = pass.rotaries[*block.layer.rotary], own = all.select(rows);
    query = rotary(query, own.cosine, own.sine, queries);
    shared = rotary(shared, all.cosine, all.sine, keys);
  }
  const at::Tensor mixed =
      tree_attention({query[0], shared[0].narrow(1, 0, keys), shared[0].narrow(1, keys, keys), /*of_asked=*/true},
                     *pass.trees, attention_options(layer));
  return project(mixed, block.attention_output.weight->working, block.attention_output.bias);
}

AttentionOptions Decoder::attention_options(std::size_t layer) const {
  return {specification_.attention_scale, specification_.attention_softcap, blocks_[layer].layer.sliding_window};
}

at::Tensor Decoder::transform(const Block& block, const at::Tensor& input) const {
  const DecoderSpecification& s = specification_;
  const auto active = [&](const at::Tensor& inner) {
    if (!s.gated) return activate(s.activation, inner);
    if (s.activation == Activation::kSilu) return swiglu(inner);
    const auto halves = inner.chunk(2, -1);
    return activate(s.activation, halves[0]) * halves[1];
  };
  if (block.router) {
    return mix_experts(input,
                       {.router = block.router->working,
                        .gate_up = block.mlp_input.weight->working,
                        .down = block.mlp_output.weight->working},
                       {.per_token = s.num_experts_per_tok, .is_normalised = s.norm_topk_prob}, active);
  }
  const auto transformed = [&](const at::Tensor& rows) {
    const at::Tensor inner = project(rows, block.mlp_input.weight->working, block.mlp_input.bias);
    return project(active(inner), block.mlp_output.weight->working, block.mlp_output.bias);
  };
  const std::int64_t count = input.size(0);
  if (count <= kInnerRows || !input.is_cpu() || needs_derivatives({input, block.mlp_input.weight->working}))
    return transformed(input);
  at::Tensor output;
  for (std::int64_t first = 0; first < count; first += kInnerRows) {
    const std::int64_t rows = std::min(kInnerRows, count - first);
    const at::Tensor part = transformed(input.narrow(0, first, rows));
    if (!output.defined()) output = at::empty({count, part.size(1)}, part.options());
    output.narrow(0, first, rows).copy_(part);
  }
  return output;
}

}  // namespace lmhead
