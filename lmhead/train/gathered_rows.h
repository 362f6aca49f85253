// A tensor of which each process has some rows, as a file has it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lmhead/models/tensor_pieces.h"
#include "lmhead/processes/processes.h"

namespace lmhead {

/// The whole of `shape` of a tensor of which `rows` are here, and in each process as many as `rows_of_process` says,
/// one after another. Where each has much of it, a process sends its rows piece by piece, and no other holds more than
/// 8 MiB of them; else all is gathered at once.
TensorPieces gathered_rows(const std::string& name, const at::Tensor& rows, const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& rows_of_process, const Processes& processes);

}  // namespace lmhead
