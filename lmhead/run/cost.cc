#include "lmhead/run/cost.h"

#include "lmhead/heads/head_gradient_cost.h"
#include "lmhead/models/causal_model.h"

namespace lmhead {
namespace {

double count_matrices(const ParameterList& parameters) {
  double numbers = 0;
  for (const ParameterPtr& parameter : parameters)
    if (parameter->value.dim() >= 2 && parameter->kind != ParameterKind::kEmbedding)
      numbers += double(parameter->value.numel());
  return numbers;
}

}  // namespace

double training_flops_per_token(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  const DecoderOptions& model = configuration.model;
  const CausalModel shapes(model, configuration.head, vocab_size, shapes_alone());
  const double width = double(model.num_attention_heads) * double(model.resolved_head_dim());
  const DataOptions& data = configuration.data;
  const std::int64_t tokens = data.batch_size * data.sequence_length;
  const double rules = head_gradient_flops(configuration.head_gradient, {.hidden_size = model.hidden_size,
                                                                         .vocab_size = vocab_size,
                                                                         .tokens = tokens,
                                                                         .micro_batches = data.micro_batches});
  return 6 * count_matrices(shapes.decoder.parameters()) +
         shapes.head->flops_per_token(configuration.data.sequence_length) +
         12 * double(model.num_hidden_layers) * double(data.sequence_length) * width + rules / double(tokens);
}

double training_tokens_per_step(const TrainConfiguration& configuration) {
  return double(configuration.data.batch_size) * double(configuration.data.sequence_length);
}

double training_tokens(const TrainConfiguration& configuration) {
  return double(configuration.training.steps) * training_tokens_per_step(configuration);
}

}  // namespace lmhead
