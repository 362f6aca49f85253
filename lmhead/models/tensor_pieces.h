// Tensors that are written to a file and need not be whole in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace lmhead {

struct TensorPieces {
  std::string name;
  at::ScalarType type;
  std::vector<std::int64_t> shape;
  /// Calls `use` with runs of rows, one after another, that are the tensor together.
  std::function<void(const std::function<void(const at::Tensor&)>& use)> give;
};

/// Each in one piece.
std::vector<TensorPieces> in_one_piece(const std::vector<std::pair<std::string, at::Tensor>>& tensors);

/// Asks for all pieces in the order in which `write_pieces` does, and uses none: for processes that others need to
/// give theirs.
void give_in_file_order(const std::vector<TensorPieces>& tensors);

}  // namespace lmhead
