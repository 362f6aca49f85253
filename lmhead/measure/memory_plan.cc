#include "lmhead/measure/memory_plan.h"

#include <algorithm>
#include <string_view>

#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"
#include "lmhead/diagnose/token_rows.h"

namespace lmhead {
namespace {

constexpr double kProcess = 192 << 20;  // of libtorch, its threads and its allocator's leftovers
constexpr double kHeadTile = 32 << 20;  // rows of the head in float64, and what is made of them
constexpr std::int64_t kDefaultChunk = 65536;

double bytes_of(const ParameterPtr& parameter, at::ScalarType type) {
  const bool is_vector = parameter->kind == ParameterKind::kVector || parameter->kind == ParameterKind::kConstant;
  return double(parameter->value.numel()) * double(is_vector ? sizeof(float) : c10::elementSize(type));
}

/// What one batch takes inside a block: the stream and its updates, projections before and after rotation, the MLP.
double activations(const DecoderSpecification& s, std::int64_t tokens) {
  const double heads = double((s.num_attention_heads + 2 * s.num_key_value_heads) * s.head_dim);
  const double inner = double(std::max(s.intermediate_size, s.moe_intermediate_size)) * (s.gated ? 3 : 2);
  const double numbers = 4 * double(s.hidden_size) + std::max(2 * heads + double(s.hidden_size), inner);
  // Beyond packed attention the scores of a batch are there at once.
  return double(tokens) * numbers * sizeof(float);
}

bool measures(const MeasurementShape& shape, std::string_view name) {
  return shape.diagnostics.empty() || std::ranges::count(shape.diagnostics, name) > 0;
}

/// What a figure takes once every token is in.
double figures(const MeasurementShape& shape) {
  const double vocab_size = double(shape.vocab_size), block = double(rows_per_block(shape.vocab_size)) * vocab_size;
  double most = 0;
  if (measures(shape, "update_direction")) most = std::max(most, 8 * sizeof(double) * std::max(block / 4, vocab_size));
  if (measures(shape, "gradient_spectrum")) {
    const GradientSpectrumOptions& spectrum = shape.diagnostic.gradient_spectrum;
    const double tokens = double(std::min(spectrum.tokens, spectrum.exact_tokens));
    most = std::max(most, 4 * sizeof(double) * tokens * tokens + double(128 << 20));
  }
  return most;
}

/// What figures keep from the first token on.
double samples(const MeasurementShape& shape, double hidden_size) {
  const double width = hidden_size * (shape.float64 ? sizeof(double) : sizeof(float));
  const GradientSpectrumOptions& spectrum = shape.diagnostic.gradient_spectrum;
  double bytes = 0;
  if (measures(shape, "update_direction")) bytes += 2 * width * double(shape.diagnostic.update_direction.tokens);
  if (measures(shape, "gradient_spectrum"))
    bytes += spectrum.tokens > spectrum.exact_tokens ? spectrum.sketch_gib * double(1 << 30)
                                                     : 2 * width * double(spectrum.tokens);
  return bytes;
}

}  // namespace

MemoryNeed memory_need(const Decoder& decoder, const MeasurementShape& shape) {
  const DecoderSpecification& s = decoder.specification();
  double largest = 0, matrix = 0, all = 0;
  for (std::size_t layer = 0; layer < s.layers.size(); ++layer) {
    double block = 0;
    for (const ParameterPtr& parameter : decoder.block_parameters(layer)) {
      block += bytes_of(parameter, shape.block_type);
      matrix = std::max(matrix, bytes_of(parameter, shape.block_type));
    }
    largest = std::max(largest, block);
    all += block;
  }
  const double hidden_size = double(s.hidden_size), square = sizeof(double) * hidden_size * hidden_size;
  const double table = double(shape.vocab_size) * hidden_size * sizeof(float);
  const double tokens = double(std::max(kBatchTokens, shape.sequence_length));
  const double logits = double(rows_per_block(shape.vocab_size)) * double(shape.vocab_size) * sizeof(float);

  MemoryNeed need{.block = largest, .head = shape.head_on_disk ? kHeadTile : 2 * table * (shape.float64 ? 3 : 1)};
  need.per_token = hidden_size * sizeof(float) * double(1 + shape.kept_layers) + 5 * sizeof(std::int64_t);
  const double always = kProcess + need.head + 2 * square + samples(shape, hidden_size) +
                        (shape.reads_blocks ? 0 : all) + double(s.position_embeddings) * hidden_size * sizeof(float);
  const double in_layers = (shape.reads_blocks ? largest + matrix : 0) + activations(s, std::int64_t(tokens));
  const double in_figures = std::max({5 * square, 3 * logits, figures(shape)});  // 5: of an eigendecomposition
  need.least = always + std::max(in_layers, in_figures) + tokens * need.per_token;
  return need;
}

std::int64_t chunk_tokens(const MemoryNeed& need, const MeasurementShape& shape, std::optional<double> limit) {
  const double batch = double(std::max(kBatchTokens, shape.sequence_length));
  double further = double(kDefaultChunk) - batch;
  if (limit) {
    require(need.least <= *limit, "measure", "--memory must be at least ", format_bytes(need.least),
            " for this model (the largest layer ", format_bytes(need.block), ", the head ", format_bytes(need.head),
            "), got ", format_bytes(*limit));
    further = (*limit - need.least) / need.per_token;
  } else if (const auto available = available_memory()) {
    further = std::min(further, double(*available) / 4 / need.per_token - batch);
  }
  return std::int64_t(std::clamp(batch + further, batch, 1e15));
}

}  // namespace lmhead
