// An optimiser whose state lies in several processes.
#pragma once

#include <memory>

#include "lmhead/processes/processes.h"
#include "lmhead/train/optimizer.h"
#include "lmhead/train/row_shards.h"

namespace lmhead {

/// What `make_optimizer` makes, over the rows that `shards` gives to this process: its state and its work. `step` is
/// given the gradients of these rows, and then sends the new values of all rows to all. Its `whole_state` is that of
/// the plain optimiser, rows gathered in the first process.
std::unique_ptr<Optimizer> make_sharded_optimizer(const OptimizerOptions& options, const ParameterList& parameters,
                                                  const RowShards& shards, const Processes& processes);

}  // namespace lmhead
