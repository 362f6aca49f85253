// One decoder described by a specification. It ends at the features after the final norm; a head owns the
// rest.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/models/attention.h"
#include "lmhead/models/block_source.h"
#include "lmhead/models/decoder_options.h"
#include "lmhead/models/decoder_specification.h"
#include "lmhead/models/key_value_cache.h"
#include "lmhead/models/rotary_positions.h"
#include "lmhead/models/token_trees.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

class Decoder {
 public:
  /// Asks `source` for every parameter, under the names that Llama, OLMo 2 and Gemma have in Hugging Face
  /// checkpoints; q, k and v, and gate and up, are asked for as one parameter of several parts.
  Decoder(DecoderSpecification specification, const ParameterSource& source);

  /// Features [B T, D] after the final norm for ids `tokens` [B, T]; where `layers` is given it receives the
  /// features [B T, D] after every block. Mixed precision: products in the parameters' working type, the
  /// residual stream in float32.
  at::Tensor forward(const at::Tensor& tokens, std::vector<at::Tensor>* layers = nullptr) const;

  /// What `forward_batches` gives of a batch.
  struct BatchFeatures {
    at::Tensor hidden;               // [B T, D] float32; of trees in the type of products
    std::vector<at::Tensor> layers;  // [B T, D] after the blocks that were asked for
  };
  struct BatchesOptions {
    std::vector<std::int64_t> kept_layers = {};  // blocks whose features are wanted
    /// Called behind every block of every batch.
    std::function<void(std::size_t layer, std::size_t batch)> after_batch = {};
    /// Called when all batches have gone through `layers` blocks, with what they then have, float32. With that and
    /// `layers` below, a later pass goes on from there; features before it are then not to be had.
    std::function<void(std::size_t layers, const std::vector<at::Tensor>& features)> after_layer = {};
    std::size_t layers_done = 0;
    std::vector<at::Tensor> features = {};  // [B T, D] of each batch; of no account where no layer is done
  };
  /// The features of several batches [B, T], and those that were asked for: all batches go through a block
  /// before the next is asked for, with the bits that each would have by itself. In mixed precision the features stay
  /// float32. For inference. Memory: D float32 a token and kept layer, what a block takes of one batch, and the block
  /// where it is read when it is asked for.
  std::vector<BatchFeatures> forward_batches(const std::vector<at::Tensor>& batches,
                                             const BatchesOptions& options) const;

  /// Features [B T, D] of `tokens` [B, T] that follow those which `cache` has seen, as `forward` over all of
  /// them would give; the cache then has seen these too. For inference: keys and values are kept without
  /// history. A fresh cache starts a sequence; one cache serves one decoder and one batch size. Throws where its keys
  /// do not serve the longer sequence.
  at::Tensor extend(const at::Tensor& tokens, KeyValueCache& cache, std::vector<at::Tensor>* layers = nullptr) const;

  /// Whether the keys of `seen` tokens are what they would be in a sequence of `length`: not everywhere where rotary
  /// frequencies follow the length.
  bool keeps_keys(std::int64_t seen, std::int64_t length) const;

  /// Features of every token of `trees` that is asked for, [M, D], as `forward` over each token's sequence would give,
  /// and those after `kept_layers`. What sequences share is computed once, and the last block computes nothing but keys
  /// and values of the other tokens. All of `trees` go through a block before the next is asked for. For inference.
  /// Memory as `forward_batches`. Throws where rotary frequencies follow the length of one of the sequences.
  std::vector<BatchFeatures> forward_trees(const std::vector<TokenTrees>& trees,
                                           const std::vector<std::int64_t>& kept_layers = {}) const;

  /// Whether `forward` keeps each block's input alone for the backward pass, which computes the block again. The
  /// decoder must then outlive that pass.
  void recompute_blocks(bool recomputes) { recomputes_blocks_ = recomputes; }

  /// From now on each of `processes` has the rows of its words of the embedding alone. All call `forward` together,
  /// each with tokens of its own; those without any call `look_up_nothing`.
  void share_words(const Processes& processes) { word_processes_ = processes; }
  void look_up_nothing() const;

  /// From now on every pass has `source` bring a block's parameters when it comes to the block.
  void read_blocks_from(std::shared_ptr<BlockSource> source) { source_ = std::move(source); }
  /// Null where all blocks are in memory.
  const std::shared_ptr<BlockSource>& block_source() const { return source_; }
  /// The parameters of one block.
  ParameterList block_parameters(std::size_t layer) const;

  const ParameterList& parameters() const { return parameters_; }
  /// Where passes compute.
  c10::Device device() const { return source_ ? source_->device() : embedding_->value.device(); }
  const ParameterPtr& embedding() const { return embedding_; }
  const DecoderSpecification& specification() const { return specification_; }

 private:
  struct Norm {
    ParameterPtr weight, bias;  // bias for LayerNorm alone; no weight where there is no norm
  };
  struct Projection {
    ParameterPtr weight, bias;  // bias may be null
  };
  struct Block {
    LayerSpecification layer;
    Norm attention_input_norm, attention_output_norm, mlp_input_norm, mlp_output_norm;
    Projection query_key_value, attention_output, mlp_input, mlp_output;
    ParameterPtr query_norm, key_norm;
    ParameterPtr router;  // null: mlp_input and mlp_output are one MLP, not those of all experts
  };
  class Builder;

  /// What the blocks of one pass have in common.
  struct Pass {
    std::int64_t batch;
    at::ScalarType type = at::kFloat;    // of products
    at::Tensor positions;                // [T], or undefined where they are `first` and those after it
    std::int64_t first = 0, length = 0;  // position of the first token; how long the longest sequence then is
    KeyValueCache* cache = nullptr;
    const TokenTrees* trees = nullptr;
    std::vector<RotaryRows> rotaries = {};  // a row a token of a sequence
  };
  /// One batch on its way through the blocks.
  struct Stream {
    at::Tensor tokens;
    Pass pass;
    at::Tensor features = {};
  };
  using AfterBlock = std::function<void(std::size_t layer, std::size_t stream)>;
  void run(std::vector<Stream>& streams, const AfterBlock& after, std::size_t first_layer = 0) const;
  at::Tensor run(const at::Tensor& tokens, Pass pass, std::vector<at::Tensor>* layers) const;
  at::Tensor look_up(const at::Tensor& tokens) const;
  at::Tensor embed(const at::Tensor& tokens, const Pass& pass) const;
  at::Tensor apply(std::size_t layer, const at::Tensor& input, const Pass& pass) const;
  at::Tensor normalise(const Norm& norm, const at::Tensor& input, at::ScalarType type) const;
  at::Tensor normalise_heads(const at::Tensor& heads, const at::Tensor& weight) const;
  at::Tensor attend(std::size_t layer, const at::Tensor& input, const Pass& pass) const;
  at::Tensor mix(std::size_t layer, const at::Tensor& projected, KeyValueCache* cache) const;
  at::Tensor attend_rows(std::size_t layer, const at::Tensor& input, const Pass& pass) const;
  AttentionOptions attention_options(std::size_t layer) const;
  at::Tensor transform(const Block& block, const at::Tensor& input) const;

  DecoderSpecification specification_;
  ParameterPtr embedding_, position_embedding_;
  std::vector<Block> blocks_;
  std::vector<std::size_t> block_begins_;  // in `parameters_`, and where the last one ends
  Norm final_norm_;
  ParameterList parameters_;
  std::vector<std::unique_ptr<RotaryTable>> rotary_tables_;
  std::shared_ptr<BlockSource> source_;
  bool recomputes_blocks_ = false;
  Processes word_processes_;  // that each have rows of the embedding
};

}  // namespace lmhead
