#include "lmhead/train/memory_estimate.h"

#include <algorithm>
#include <string>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"
#include "lmhead/kernels/fused_rows.h"
#include "lmhead/kernels/tile_sizes.h"
#include "lmhead/train/parallel_layout.h"

namespace lmhead {

namespace {

constexpr double kMostNumbers = 0x1p61;  // of a tensor: its bytes are counted in 64 bits
constexpr double kNumber = sizeof(float);

/// Composed of ATen's operations, the logits, their exponentials and the gradient are there together.
constexpr double kComposedLogits = 3;

bool is_on_cpu(const TrainConfiguration& configuration) { return configuration.training.device == "cpu"; }

double working_bytes(const TrainConfiguration& configuration) {
  return configuration.training.working_type() != at::kFloat ? 2 : kNumber;
}

/// What is there of the parameters in one process, in numbers, and what travels of them.
struct Numbers {
  double trained = 0;                // of the whole model
  double here = 0, cast = 0;         // of this process; of these, those that have a working copy
  double head = 0;                   // of the head's own
  double optimizer = 0;              // of its state, in the process that has most
  double buffers = 0, received = 0;  // that gradients travel in, and that come out of it
  double scattered = 0;              // of the buffers, those of which each process receives its rows
  double lines = 0, gathered = 0;    // of new values
};

double bytes_of_states(const TrainConfiguration& configuration, const ParameterList& parameters, const Layout& layout,
                       std::int64_t processes) {
  const auto plain = make_optimizer(configuration.optimizer, parameters);
  std::vector<double> of_process(std::size_t(processes), 0);
  for (const auto& [name, tensor] : plain->state()) {
    const std::string of = name.substr(0, name.rfind('.'));
    const auto owner = std::size_t(
        std::ranges::find(parameters, of, [](const ParameterPtr& one) { return one->name; }) - parameters.begin());
    const auto& shape = layout.shapes[owner];
    const double rows = shape.empty() ? 1 : double(std::max<std::int64_t>(shape[0], 1));
    for (std::size_t process = 0; process < of_process.size(); ++process)
      of_process[process] += double(tensor.numel()) * double(layout.shards[process][owner].count) / rows;
  }
  return std::ranges::max(of_process);
}

Numbers count_numbers(const TrainConfiguration& configuration, const CausalModel& shapes, bool shares_words,
                      std::int64_t processes) {
  Numbers numbers;
  const ParameterList parameters = shapes.parameters();
  const Layout layout = layout_of(configuration, shapes, shares_words, processes);
  const bool is_narrow = configuration.training.working_type() != at::kFloat;
  for (std::size_t index = 0; index < parameters.size(); ++index) {
    const Parameter& parameter = *parameters[index];
    const auto whole = double(parameter.value.numel());
    if (parameter.kind != ParameterKind::kConstant) numbers.trained += whole;
    double here = whole;
    if (layout.is(Placement::kHere, index))
      here *= double((layout.shapes[index][0] + processes - 1) / processes) / double(layout.shapes[index][0]);
    numbers.here += here;
    if (is_narrow && parameter.kind != ParameterKind::kVector && parameter.kind != ParameterKind::kConstant)
      numbers.cast += here;
    if (std::ranges::find(shapes.head->parameters(), parameters[index]) != shapes.head->parameters().end())
      numbers.head += here;
  }
  numbers.optimizer = bytes_of_states(configuration, parameters, layout, processes);
  if (processes == 1) return numbers;
  for (const RowBucket& bucket :
       gradient_buckets(parameters, layout, scattered_gradients(configuration, shapes, layout))) {
    numbers.buffers += double(bucket.chunk) * double(bucket.is_scattered ? processes : 1);
    if (!bucket.is_scattered) continue;
    numbers.received += double(bucket.chunk);
    numbers.scattered += double(bucket.chunk) * double(processes);
  }
  for (const RowBucket& bucket : value_buckets(parameters, layout)) {
    numbers.lines += double(bucket.chunk);
    numbers.gathered += double(bucket.chunk) * double(processes);
  }
  return numbers;
}

/// What a token of a sequence keeps for the backward pass up to the head.
double bytes_of_token(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  // In float64 throughout: products of these sizes leave 64 bits long before they leave its range.
  const DecoderSpecification s = configuration.model.specification(vocab_size);
  const auto width = double(s.hidden_size), inner = double(s.intermediate_size), layers = double(s.layers.size());
  const double queries = double(s.num_attention_heads) * double(s.head_dim);
  const double keys_and_values = 2 * double(s.num_key_value_heads) * double(s.head_dim);
  const double branches = s.gated ? 2 : 1;
  const double ids = 2 * sizeof(std::int64_t);  // inputs and targets
  const double working = working_bytes(configuration);
  // Of a block: the residual stream before each of its halves and what its norm makes of it, queries, keys and values,
  // what attention mixed, both branches of the MLP and what they give.
  double of_block =
      2 * width * kNumber + (2 * width + 2 * queries + keys_and_values + (branches + 1) * inner) * working;
  double of_norm = width * (kNumber + working);  // the features before and after the final norm
  // ATen's compositions keep each norm's rows before its weight, and what the activation gives before it is multiplied.
  if (!is_on_cpu(configuration)) {
    of_block += 2 * width * kNumber + (s.gated ? inner * working : 0);
    of_norm += width * kNumber;
  }
  // Computed again, a block keeps its input; one at a time has all of its own.
  const bool recomputes = configuration.training.checkpoint_activations && layers > 0;
  const double of_blocks = recomputes ? layers * width * kNumber + of_block : layers * of_block;
  return ids + of_norm + of_blocks;
}

/// Of a chunk on a GPU; of one that is not here, a chunk of 256 MiB.
double chunk_bytes(const std::string& device) {
  try {
    return double(fused_chunk_bytes(find_device(device, "plan")));
  } catch (const Error&) {
    return double(fused_chunk_bytes(std::nullopt));
  }
}

/// Bytes of logits at a time, of `tokens` in all, and what goes with them.
double bytes_of_logits(const TrainConfiguration& configuration, std::int64_t vocab_size, double tokens) {
  const auto classes = double(vocab_size);
  if (is_on_cpu(configuration))
    return std::min(std::min(tokens, double(tile_sizes::kRowsPerBlock)) * classes * kNumber,
                    double(tile_sizes::kBlockBytes));
  if (!configuration.training.device.starts_with("cuda") || !has_cuda_rows())
    return kComposedLogits * std::min(tokens, double(tile_sizes::rows_per_chunk(vocab_size))) * classes * kNumber;
  const double working = working_bytes(configuration);
  const double most = chunk_bytes(configuration.training.device);
  const double all = tokens * classes * working, sum = classes * double(configuration.model.hidden_size) * kNumber;
  if (all <= most) return all;
  return most + (working < kNumber ? sum : 0);  // the weight's gradient in float32, beside itself
}

MemoryEstimate estimate(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes,
                        const CausalModel& shapes, bool shares_words) {
  const Numbers numbers = count_numbers(configuration, shapes, shares_words, processes);
  const DataOptions& data = configuration.data;
  const double working = working_bytes(configuration), length = double(data.sequence_length);
  const std::int64_t sequences = data.batch_size / data.micro_batches;
  const double tokens = double((sequences + processes - 1) / processes) * length;

  MemoryEstimate memory;
  memory.parameters = numbers.trained;
  memory.values = numbers.here * kNumber + numbers.cast * 2;
  memory.optimizer = numbers.optimizer * kNumber;
  // In leaves of the working type, which one process turns to float32 one by one.
  const double leaf = processes > 1 ? working : kNumber;
  const double earlier = data.micro_batches > 1 ? numbers.here * kNumber : 0;
  memory.gradients = numbers.here * leaf + earlier;
  const double buffers = (numbers.buffers + numbers.received) * kNumber;
  const double new_values = (numbers.lines + numbers.gathered) * kNumber;
  // Of what is scattered Gloo sums a copy, which is there until it is waited for.
  const double summed = is_on_cpu(configuration) ? numbers.scattered * kNumber : 0;
  // Of a shared embedding, the gradients of the rows that all tokens looked up, when those of all else are there.
  const auto row = double(shapes.decoder.embedding()->value.size(1)) * kNumber;
  const double looked_up = shares_words ? double(sequences) * length * row : 0;
  // New values travel when the gradients of the backward pass are gone.
  const double at_the_end = std::max(numbers.here * leaf + std::max(summed, looked_up), new_values);
  memory.exchange = buffers + at_the_end - numbers.here * leaf;
  memory.activations = tokens * bytes_of_token(configuration, vocab_size);
  double of_head = tokens * shapes.head->memory_per_token(data.sequence_length) * kNumber;
  if (shares_words) {  // features of all, what is known of each token, and gradients of all
    const double all = double(sequences) * length;
    const auto features = double(shapes.head->word_rows().front()->value.size(1));
    of_head += all * (features * (working + kNumber) + 16 * sizeof(double));
  } else {
    memory.logits = bytes_of_logits(configuration, vocab_size, tokens);
  }
  memory.activations += of_head;
  // The backward pass frees activations as gradients appear: most is needed before or after it.
  const double before = memory.activations + memory.logits + numbers.head * kNumber;
  memory.peak = memory.values + memory.optimizer + earlier + buffers + std::max(before, at_the_end);
  // On a CPU the process keeps some of what it lets go of, and tensors of other sizes find no room in that.
  if (is_on_cpu(configuration)) memory.peak += std::min({before, at_the_end, double(kMostKept)});
  return memory;
}

}  // namespace

MemoryEstimate estimate_memory(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes,
                               std::optional<bool> shares) {
  try {
    const CausalModel shapes = shapes_of(configuration, vocab_size);
    const bool shares_all = shares ? *shares : shares_words(configuration, shapes, processes);
    return estimate(configuration, vocab_size, processes, shapes, shares_all);
  } catch (const std::exception& error) {
    if (!is_memory_failure(error)) throw;
    const double bytes = kMostNumbers * kNumber;
    return {.parameters = kMostNumbers, .values = bytes, .gradients = bytes, .peak = 2 * bytes};
  }
}

void require_training_memory(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes) {
  if (!is_on_cpu(configuration)) return;  // a device says itself what it has
  const MemoryEstimate estimate = estimate_memory(configuration, vocab_size, processes);
  const DataOptions& data = configuration.data;
  require_memory("train",
                 format_bytes(estimate.state()) + " of parameters, gradients and optimiser and " +
                     format_bytes(estimate.activations) + " of activations for " +
                     std::to_string(data.batch_size / data.micro_batches) + " sequences of " +
                     std::to_string(data.sequence_length) + " tokens at once",
                 estimate.peak);
}

}  // namespace lmhead
