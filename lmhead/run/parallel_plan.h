// What training in several processes will need and take, from its configuration and the machine alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/run/run.h"
#include "lmhead/train/exchange_estimate.h"
#include "lmhead/train/memory_estimate.h"

namespace lmhead {

/// Of each process alike.
struct ProcessMachine {
  double flops_per_second = 0;        // of its matrix products
  double bytes_per_second = 0;        // that it sends to its neighbour; not looked at where there is none
  double seconds_per_message = 0;     // until the first of them arrives
  std::optional<double> memory = {};  // bytes that it may take, beside the program
};

/// One way to share the work out.
struct SharingPlan {
  bool is_optimizer_sharded = false, shares_words = false;
  std::optional<std::string> against;  // why it cannot be; nothing else is then known
  MemoryEstimate memory;
  std::vector<Sent> sent;
  double sent_bytes = 0;        // in a step by each process
  double product_seconds = 0;   // of a step
  double exchange_seconds = 0;  // likewise, one after the other
  double step_seconds = 0;      // with gradients on their way while the last backward pass runs
  bool fits = true;
};

struct ParallelPlan {
  std::int64_t vocab_size = 0, processes = 1;
  double tokens = 0;           // of a step
  double flops_per_token = 0;  // of training
  std::vector<SharingPlan> ways;
  std::optional<std::size_t> choice;  // among those that fit
};

/// Products take flops / rate; what is sent takes bytes / bandwidth and a latency for every hop of a ring; gradients of
/// the last micro-batch travel during its backward pass, two thirds of its products. A shared head computes its
/// logits twice. The choice is the fastest way that fits; of those that take at most 5 % longer the one with the least
/// memory. Throws where the configuration cannot be trained by so many.
ParallelPlan plan_parallel(const RunConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes,
                           const ProcessMachine& machine);

/// Floating-point operations a second of float32 products here, with `threads` threads (nothing: all): the best of some
/// tenths of a second.
double measure_product_rate(const std::optional<std::int64_t>& threads);

Json to_json(const ParallelPlan& plan);

}  // namespace lmhead
