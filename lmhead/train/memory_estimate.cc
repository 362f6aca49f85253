#include "lmhead/train/memory_estimate.h"

#include <string>

#include "lmhead/base/memory.h"

namespace lmhead {

MemoryEstimate estimate_memory(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  // In float64 throughout: products of these sizes leave 64 bits long before they leave its range.
  const DecoderSpecification s = configuration.model.specification(vocab_size);
  const auto width = double(s.hidden_size), inner = double(s.intermediate_size), layers = double(s.layers.size());
  const double queries = double(s.num_attention_heads) * double(s.head_dim);
  const double keys_and_values = 2 * double(s.num_key_value_heads) * double(s.head_dim);
  const double branches = s.gated ? 2 : 1;
  const bool has_own_head = configuration.head.type() == "linear" && !configuration.model.tie_word_embeddings;

  MemoryEstimate estimate;
  estimate.parameters = double(vocab_size) * width * (has_own_head ? 2 : 1) + double(s.position_embeddings) * width +
                        layers * width * (2 * queries + keys_and_values + (branches + 1) * inner);
  const double copies = configuration.optimizer.type == "adamw" ? 4 : 2;
  estimate.state = estimate.parameters * copies * sizeof(float);

  const DataOptions& data = configuration.data;
  const double ids = 2 * sizeof(std::int64_t);  // inputs and targets
  const double working = configuration.training.precision == "bfloat16" ? 2 : sizeof(float);
  // Of a block: the residual stream before each of its halves, queries, keys and values, what attention mixed, and both
  // branches of the MLP.
  const double of_block = 2 * width * sizeof(float) + (2 * queries + keys_and_values + branches * inner) * working;
  estimate.activations = double(data.batch_size / data.micro_batches) * double(data.sequence_length) *
                         (ids + width * working + layers * of_block);
  return estimate;
}

void require_training_memory(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  const MemoryEstimate estimate = estimate_memory(configuration, vocab_size);
  const DataOptions& data = configuration.data;
  require_memory("train",
                 format_bytes(estimate.state) + " of parameters, gradients and optimiser and " +
                     format_bytes(estimate.activations) + " of activations for " +
                     std::to_string(data.batch_size / data.micro_batches) + " sequences of " +
                     std::to_string(data.sequence_length) + " tokens at once",
                 estimate.state + estimate.activations);
}

}  // namespace lmhead
