// What a decoder computes, in full: the options of training and the families of others both come down to
// this.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace lmhead {

enum class NormKind {
  kNone,
  kRms,    // x / rms(x) * weight
  kLayer,  // (x - mean) / deviation * weight + bias
};

/// Where a block normalises around each of its two functions f.
enum class NormPosition {
  kBefore,    // x + f(norm(x)): GPT-2, Llama
  kAfter,     // x + norm(f(x)): OLMo 2
  kBoth,      // x + norm(f(norm(x))): Gemma 2 and 3
  kAfterSum,  // norm(x + f(x)), no final norm: the Transformer of 2017
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu, kReluSquared };

/// Normalisation of queries and keys before positions enter, RMSNorm but for the last.
enum class QueryKeyNorm {
  kNone,
  kHead,      // each head by itself, one weight [head_dim] for all: Qwen 3, Gemma 3
  kWidth,     // all heads together, weight [heads * head_dim]: OLMo 2
  kEachHead,  // LayerNorm of each head by itself, with a weight of its own and no bias: StableLM
};

enum class RotaryScaling {
  kNone,
  kLinear,    // every frequency divided by `factor`
  kLlama3,    // long wavelengths divided by `factor`, short ones kept, a ramp between (Llama 3.1)
  kYarn,      // the same with a ramp over the elements, from `beta_fast` turns to `beta_slow` (Peng et al. 2023)
  kDynamic,   // theta grows with a sequence that is longer than max_position_embeddings
  kLongRope,  // element by element divided by `short_factor`, in sequences longer than original_… by `long_factor`
};

/// One set of rotary frequencies; the keys are those of Hugging Face's `rope_parameters`.
struct RotarySpecification {
  std::int64_t width = 0;  // leading elements of a head that are rotated; even
  double theta = 10000;
  RotaryScaling scaling = RotaryScaling::kNone;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4, original_max_position_embeddings = 8192;
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;  // whether the ramp of yarn ends at whole elements
  double max_position_embeddings = 0;
  std::vector<double> short_factor, long_factor;  // [width / 2]
  double attention_factor = 1;                    // multiplies cosine and sine

  bool operator==(const RotarySpecification&) const = default;
};

/// What may differ from layer to layer.
struct LayerSpecification {
  std::int64_t sliding_window = 0;        // tokens that a token sees, itself included; 0: all before it
  std::optional<std::size_t> rotary = 0;  // index into `rotaries`; nothing: no positions, as Cohere 2 sees from afar
  bool has_experts = false;               // its MLP is a sparse mixture

  bool operator==(const LayerSpecification&) const = default;
};

struct DecoderSpecification {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::vector<LayerSpecification> layers;

  std::int64_t num_experts = 0, num_experts_per_tok = 0;  // of the layers that have experts, all of them gated
  std::int64_t moe_intermediate_size = 0;                 // the inner width of an expert
  bool norm_topk_prob = false;  // whether the probabilities of the experts that were chosen are made to sum to 1

  double embedding_scale = 1;                 // multiplies the embedded tokens: sqrt(D) in Gemma
  std::int64_t position_embeddings = 0;       // rows of the learned position table; 0: none
  std::vector<RotarySpecification> rotaries;  // empty: no rotary positions

  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-5;
  NormPosition norm_position = NormPosition::kBefore;
  bool norm_bias = true;           // whether kLayer has one
  bool parallel_residual = false;  // x + attention(norm(x)) + mlp(norm'(x)): GPT-NeoX
  bool shared_input_norm = false;  // norm' is norm: Cohere 2, StableLM
  double residual_scale = 1;       // multiplies what attention and MLP add: Granite

  QueryKeyNorm qk_norm = QueryKeyNorm::kNone;
  double attention_scale = 0;    // multiplies q k^T
  double attention_softcap = 0;  // c tanh(score / c) before the softmax; 0: none
  Activation activation = Activation::kSilu;
  bool gated = true;  // act(gate) * up instead of act(up)
  bool query_key_value_bias = false, attention_output_bias = false, mlp_bias = false;

  // Standard deviations of fresh matrices; of no account where parameters are read.
  double initializer_range = 0.02;
  double residual_initializer_range = 0.02;  // of the two matrices that write into the residual stream

  bool operator==(const DecoderSpecification&) const = default;
};

}  // namespace lmhead
