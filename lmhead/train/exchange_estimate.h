// What the processes of a run send one another in a step, from its configuration alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lmhead/processes/ring.h"
#include "lmhead/train/parallel_layout.h"

namespace lmhead {

/// What is sent for one purpose.
struct Sent {
  std::string what;
  RingRounds rounds;
  double bytes;               // of the sums, or of the parts of all processes together
  double messages;            // that this is cut into
  bool is_meanwhile = false;  // on its way while a backward pass runs, where no rule looks at gradients
};

/// Everything that is sent in every step, as `Processes::sent_bytes` counts it. Left out: observers, rules on the
/// head's gradients, figures that a head says of its loss, and what comes between steps.
struct ExchangeEstimate {
  std::vector<Sent> sent;
  /// By each process.
  double bytes(std::int64_t processes) const;
  /// How often it waits for its neighbour.
  double hops(std::int64_t processes) const;
};
ExchangeEstimate estimate_exchange(const TrainConfiguration& configuration, const CausalModel& shapes,
                                   bool shares_words, std::int64_t processes);

}  // namespace lmhead
