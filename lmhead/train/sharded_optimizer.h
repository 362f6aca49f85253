// An optimiser whose state lies in several processes.
#pragma once

#include <memory>

#include "lmhead/processes/processes.h"
#include "lmhead/train/optimizer.h"
#include "lmhead/train/row_shards.h"

namespace lmhead {

/// What `make_optimizer` makes, over the rows that `layout` lets this process update: its state and its work. `step` is
/// given the gradients of these rows, and then sends the new values of what is shared out to all. Its `whole_state` is
/// that of the plain optimiser, rows gathered in the first process.
std::unique_ptr<Optimizer> make_sharded_optimizer(const OptimizerOptions& options, const ParameterList& parameters,
                                                  const Layout& layout, const Processes& processes);

}  // namespace lmhead
