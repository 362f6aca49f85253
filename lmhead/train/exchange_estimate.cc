#include "lmhead/train/exchange_estimate.h"

namespace lmhead {

double ExchangeEstimate::bytes(std::int64_t processes) const {
  double sum = 0;
  for (const Sent& one : sent) sum += ring_bytes(one.rounds, one.bytes, processes);
  return sum;
}

double ExchangeEstimate::hops(std::int64_t processes) const {
  double sum = 0;
  for (const Sent& one : sent) sum += one.messages * ring_hops(one.rounds, processes);
  return sum;
}

ExchangeEstimate estimate_exchange(const TrainConfiguration& configuration, const CausalModel& shapes,
                                   bool shares_words, std::int64_t processes) {
  ExchangeEstimate estimate;
  if (processes == 1) return estimate;
  const auto add = [&](const char* what, RingRounds rounds, double bytes, double messages, bool is_meanwhile = false) {
    if (messages > 0) estimate.sent.push_back({what, rounds, bytes, messages, is_meanwhile});
  };
  const auto number = double(sizeof(float)), word = double(sizeof(double)), size = double(processes);
  const ParameterList parameters = shapes.parameters();
  const Layout layout = layout_of(configuration, shapes, shares_words, processes);

  double summed = 0, sums = 0, scattered = 0, scatters = 0;
  for (const RowBucket& bucket :
       gradient_buckets(parameters, layout, scattered_gradients(configuration, shapes, layout))) {
    (bucket.is_scattered ? scattered : summed) += double(bucket.chunk) * number * (bucket.is_scattered ? size : 1);
    ++(bucket.is_scattered ? scatters : sums);
  }
  add("gradients", RingRounds::kSum, summed, sums, /*is_meanwhile=*/true);
  add("gradients, each its rows", RingRounds::kScatteredSum, scattered, scatters, /*is_meanwhile=*/true);
  double values = 0, gathers = 0;
  for (const RowBucket& bucket : value_buckets(parameters, layout)) {
    values += double(bucket.chunk) * number * size;
    ++gathers;
  }
  add("new values", RingRounds::kGather, values, gathers);

  // Of a micro-batch: as many tokens as if all had the longest share, and as it has.
  const DataOptions& data = configuration.data;
  const auto parts = double(data.micro_batches), length = double(data.sequence_length);
  const std::int64_t sequences = data.batch_size / data.micro_batches;
  const double padded = double((sequences + processes - 1) / processes) * length * size;
  const double tokens = double(sequences) * length;
  const auto gather_ids = [&](const char* what) {
    add("how many tokens each has", RingRounds::kGather, parts * size * word, parts);
    add(what, RingRounds::kGather, parts * padded * double(sizeof(std::int64_t)), parts);
  };
  if (shapes.head->needs().batch_targets) gather_ids("targets");
  if (shares_words) {
    const bool is_narrow = configuration.training.working_type() != at::kFloat;
    const auto width = double(shapes.head->word_rows().front()->value.size(1));
    const double sums_of_token = configuration.loss.label_smoothing > 0 ? 3 : 2;
    const auto row = double(shapes.decoder.embedding()->value.size(1)) * number;
    gather_ids("tokens");
    add("rows of the embedding", RingRounds::kScatteredSum, parts * padded * row, parts);
    add("gradients of these", RingRounds::kGather, parts * padded * row, parts);
    gather_ids("targets");
    add("features", RingRounds::kGather, parts * padded * width * (is_narrow ? 2 : number), parts);
    add("largest sums over words", RingRounds::kSum, parts * tokens * word, parts);
    add("sums over words", RingRounds::kSum, parts * tokens * sums_of_token * word, parts);
    add("factors of the losses", RingRounds::kGather, parts * size * word, parts);
    add("gradients of features", RingRounds::kScatteredSum, parts * padded * width * number, parts);
  }
  add("losses, and what has a gradient", RingRounds::kGather, size * (parts + double(parameters.size())) * word, 1);
  const bool is_split = shares_words || configuration.parallel.optimizer == "sharded";
  if (is_split) add("the gradient's norm", RingRounds::kSum, word, 1);
  return estimate;
}

}  // namespace lmhead
