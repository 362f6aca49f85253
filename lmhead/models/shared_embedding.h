// An embedding of which every process has the rows of its words alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "lmhead/processes/processes.h"

namespace lmhead {

/// Rows [..., D] of this process's `tokens` [...], ids of `vocab_size` words whose rows lie in all `processes`, each of
/// which has the `rows` [R, D] of its share; in one process a plain look-up. The bits of rows are those that are looked
/// up. All call it, each with tokens of its own, of which it may have none, and all call backward: the gradient of the
/// rows is of all processes' tokens, added in their order. First derivatives alone.
///
/// Sent, of M tokens in all: M ids, M D numbers in the scattered sum that brings the rows, to which one process gives a
/// row and the others zeros, and M D gradients. That is no more than a process would send that has the words of all
/// tokens and sent them one by one, and unlike those bytes it is known before a step. Memory: two or three times M D
/// numbers while it runs; M ids are kept.
at::Tensor shared_embedding(const at::Tensor& rows, const at::Tensor& tokens, std::int64_t vocab_size,
                            const Processes& processes);

}  // namespace lmhead
