#include "lmhead/train/memory_estimate.h"

#include <string>

#include "lmhead/base/memory.h"
#include "lmhead/models/causal_model.h"

namespace lmhead {

namespace {

constexpr double kMostNumbers = 0x1p61;  // of a tensor: its bytes are counted in 64 bits

double count_parameters(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  try {
    const CausalModel shapes(configuration.model, configuration.head, vocab_size, shapes_alone());
    double numbers = 0;  // in float64: together they may leave 64 bits
    for (const ParameterPtr& parameter : shapes.parameters()) numbers += double(count_trained({parameter}));
    return numbers;
  } catch (const std::exception& error) {
    if (!is_memory_failure(error)) throw;
    return kMostNumbers;
  }
}

}  // namespace

MemoryEstimate estimate_memory(const TrainConfiguration& configuration, std::int64_t vocab_size,
                               std::int64_t processes) {
  MemoryEstimate estimate;
  estimate.parameters = count_parameters(configuration, vocab_size);
  const double averages = configuration.optimizer.type == "adamw" ? 2 : 0;
  const bool is_sharded = configuration.parallel.optimizer == "sharded";
  const double exchanged = processes > 1 ? 1 : 0;  // gradients on their way
  const double copies = 2 + exchanged + averages / (is_sharded ? double(processes) : 1);
  estimate.state = estimate.parameters * copies * sizeof(float);

  // In float64 throughout: products of these sizes leave 64 bits long before they leave its range.
  const DecoderSpecification s = configuration.model.specification(vocab_size);
  const auto width = double(s.hidden_size), inner = double(s.intermediate_size), layers = double(s.layers.size());
  const double queries = double(s.num_attention_heads) * double(s.head_dim);
  const double keys_and_values = 2 * double(s.num_key_value_heads) * double(s.head_dim);
  const double branches = s.gated ? 2 : 1;
  const DataOptions& data = configuration.data;
  const double ids = 2 * sizeof(std::int64_t);  // inputs and targets
  const double working = configuration.training.precision == "bfloat16" ? 2 : sizeof(float);
  // Of a block: the residual stream before each of its halves, queries, keys and values, what attention mixed, and both
  // branches of the MLP.
  const double of_block = 2 * width * sizeof(float) + (2 * queries + keys_and_values + branches * inner) * working;
  // Computed again, a block keeps its input; one at a time has all of its own.
  const bool recomputes = configuration.training.checkpoint_activations && layers > 0;
  const double of_blocks = recomputes ? layers * width * sizeof(float) + of_block : layers * of_block;
  const std::int64_t sequences = (data.batch_size / data.micro_batches + processes - 1) / processes;
  estimate.activations = double(sequences) * double(data.sequence_length) * (ids + width * working + of_blocks);
  return estimate;
}

void require_training_memory(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes) {
  if (configuration.training.device != "cpu") return;  // a device says itself what it has
  const MemoryEstimate estimate = estimate_memory(configuration, vocab_size, processes);
  const DataOptions& data = configuration.data;
  require_memory("train",
                 format_bytes(estimate.state) + " of parameters, gradients and optimiser and " +
                     format_bytes(estimate.activations) + " of activations for " +
                     std::to_string(data.batch_size / data.micro_batches) + " sequences of " +
                     std::to_string(data.sequence_length) + " tokens at once",
                 estimate.state + estimate.activations);
}

}  // namespace lmhead
