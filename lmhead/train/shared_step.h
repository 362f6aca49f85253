// What the processes that share a step tell one another of it, beside gradients.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lmhead/data/batches.h"
#include "lmhead/processes/processes.h"
#include "lmhead/train/observer.h"

namespace lmhead {

/// Throws where one of so many processes would have no sequence of a micro-batch.
void require_sequences(const DataOptions& data, std::int64_t processes);
/// What this process takes of every micro-batch; throws as that does.
Share share_of(const DataOptions& data, const Processes& processes);

/// The loss of the whole batch, of the `losses` of this process's parts, in the order of one process whose
/// micro-batches are the shares. Makes `figures` sums over processes, and each number of `has` (gradient_exchange.h)
/// the largest.
double meet(const Processes& processes, const DataOptions& data, const std::vector<double>& losses,
            std::vector<std::pair<std::string, double>>& figures, std::vector<double>& has);

/// Makes every process's view the one of all their tokens.
void gather_view(const Processes& processes, StepView& view);

}  // namespace lmhead
