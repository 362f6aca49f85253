#include "lmhead/data/batches.h"

#include <algorithm>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/data/dataset.h"
#include "lmhead/data/recorded_files.h"
#include "lmhead/data/spamlang.h"
#include "lmhead/data/token_batches.h"
#include "lmhead/data/token_file.h"

namespace lmhead {

BatchSource::BatchSource(const DataOptions& options) : options_(options) {
  require(options.batch_size % options.micro_batches == 0, "data", "micro_batches must divide batch_size ",
          options.batch_size, ", got ", options.micro_batches);
}

Batch BatchSource::training_batch(std::int64_t step, std::int64_t micro_batch, const Share& share) const {
  require(step >= 0 && step <= INT64_MAX / options_.batch_size - 1, "data", "step must be from 0 to ",
          INT64_MAX / options_.batch_size - 1, ", got ", step);
  require(micro_batch >= 0 && micro_batch < options_.micro_batches, "data", "micro_batch must be from 0 to ",
          options_.micro_batches - 1, ", got ", micro_batch);
  const std::int64_t sequences = options_.batch_size / options_.micro_batches;
  const std::int64_t first = share.begin(sequences);
  return training_sequences(step * options_.batch_size + micro_batch * sequences + first, share.end(sequences) - first);
}

std::int64_t BatchSource::validation_batches() const {
  const std::int64_t sequences = options_.batch_size / options_.micro_batches;
  return (validation_sequence_count() + sequences - 1) / sequences;
}

Batch BatchSource::validation_batch(std::int64_t index) const {
  require(index >= 0 && index < validation_batches(), "data", "a validation batch must be from 0 to ",
          validation_batches() - 1, ", got ", index);
  const std::int64_t sequences = options_.batch_size / options_.micro_batches;
  return validation_sequences(index * sequences, std::min(sequences, validation_sequence_count() - index * sequences));
}

std::unique_ptr<BatchSource> open_batches(const DataOptions& options, std::uint64_t seed,
                                          std::optional<std::int64_t> vocab_size) {
  if (options.seed) seed = std::uint64_t(*options.seed);
  if (options.kind == "spamlang") {
    require(vocab_size.value_or(options.spamlang.vocab_size) >= options.spamlang.vocab_size, "data",
            "model.vocab_size must be at least the ", options.spamlang.vocab_size, " of spamlang.vocab_size, got ",
            vocab_size.value_or(0));
    return std::make_unique<SpamlangBatches>(options, seed);
  }
  require(options.kind == "tokens", "data", "kind must be one of tokens, spamlang, got \"", options.kind, "\"");
  Dataset dataset = open_dataset(options.path, vocab_size, token_type_named(options.token_type));
  if (const auto sidecar = find_sidecar(options.path)) require_recorded_files(*sidecar);
  return std::make_unique<TokenBatches>(std::move(dataset), options, seed);
}

}  // namespace lmhead
