// How a run's parameters lie in its processes, by its configuration.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/data/batches.h"
#include "lmhead/models/causal_model.h"
#include "lmhead/train/configuration.h"
#include "lmhead/train/row_shards.h"

namespace lmhead {

/// The model of a configuration with shapes and no memory.
CausalModel shapes_of(const TrainConfiguration& configuration, std::int64_t vocab_size);

/// Why processes cannot each have rows of embedding and head, where they cannot: "WHAT must ..., got ...". `shapes`:
/// shapes_of.
std::optional<std::string> against_sharing_words(const TrainConfiguration& configuration, const CausalModel& shapes,
                                                 std::int64_t processes);

/// What `parallel.vocabulary` comes to: `auto` is on where it can be and less is sent then (exchange_estimate.h).
/// Throws where it is on and cannot be.
bool shares_words(const TrainConfiguration& configuration, const CausalModel& shapes, std::int64_t processes);

/// Of every parameter of `shapes`.
Layout layout_of(const TrainConfiguration& configuration, const CausalModel& shapes, bool shares_words,
                 std::int64_t processes);
/// Of each, whether a process receives the rows of its gradient that it updates, and not all: those that are shared
/// out, unless a rule on the head's gradients looks at all of it.
std::vector<bool> scattered_gradients(const TrainConfiguration& configuration, const CausalModel& shapes,
                                      const Layout& layout);

/// All of this, for a run.
struct Sharing {
  bool words = false;  // each process has rows of embedding and head
  Layout layout;
  std::vector<bool> scattered;
  std::vector<std::string> word_rows;  // names of parameters of which each has its rows
};
Sharing share_out(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes);

/// What `source` gives, and of the parameters of these names the rows of `share` alone. Memory: for a moment all rows
/// of one, so that initial values are those of one process.
ParameterSource rows_of_share(const ParameterSource& source, const std::vector<std::string>& names, const Share& share);

}  // namespace lmhead
