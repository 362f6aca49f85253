// Rates of their own for the rows of rare words.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

#include "lmhead/data/batches.h"
#include "lmhead/train/optimizer.h"

namespace lmhead {

/// `optimizer`, after whose steps the rows of words from rank `rare_from` on in `token_counts()` [V] int64 have moved
/// `rare_learning_rate_scale` times as far, decay included, in the matrices of groups that have `rare_from`; itself
/// where none has. A process that has rows of its `share` alone scales these. Memory: while it steps, a copy of each
/// such matrix. Throws where one is not in `word_rows`, those with a row a word, and where counts are not known.
std::unique_ptr<Optimizer> with_row_rates(std::unique_ptr<Optimizer> optimizer, const OptimizerOptions& options,
                                          const ParameterList& parameters, const ParameterList& word_rows,
                                          const std::function<at::Tensor()>& token_counts, const Share& share = {});

}  // namespace lmhead
