// Optimisers over a list of parameters, with groups that have their own rates, decay and way of updating.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/models/tensor_pieces.h"
#include "lmhead/train/optimizer_options.h"

namespace lmhead {

/// Named tensors of an optimiser, as a checkpoint keeps them.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// What is to be read of a tensor that a file has whole, of that name and `shape`: the rows from `first_row` on, into
/// `tensor`; nothing where that is undefined.
struct StoredRows {
  std::string name;
  at::Tensor tensor;
  std::vector<std::int64_t> shape;
  std::int64_t first_row = 0;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Applies update number `step` (from 1). `gradients` are float32, one a parameter in the order of the list,
  /// undefined where a parameter had none; they may be overwritten. Every rate is multiplied by `factor`.
  virtual void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) = 0;
  /// The state tensors themselves, to be saved or overwritten; made with zeros where there was no step yet.
  virtual NamedTensors state() = 0;
  /// The whole state, as a checkpoint has it. Of an optimiser that several processes share all must ask for the same
  /// pieces.
  virtual std::vector<TensorPieces> whole_state() { return in_one_piece(state()); }
  /// What of the whole state is to be read into this process's.
  virtual std::vector<StoredRows> stored_state();
};

/// AdamW, SGD with (Nesterov) momentum, or Muon for the matrices of the body with AdamW for everything else; groups may
/// choose another of the rules in update_rule.h. Decay is decoupled in all of them and applied to tensors of two
/// dimensions: values are multiplied by 1 - rate x decay. Throws where a group's pattern matches no parameter and where
/// a rule of matrices meets a vector. Memory: that of the rules.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, const ParameterList& parameters);

/// The group of each parameter, the first whose pattern matches, or nothing. Throws where a pattern matches none.
std::vector<std::optional<std::size_t>> find_groups(const OptimizerOptions& options, const ParameterList& parameters);

/// Of each parameter whether its update is of all its rows together, so that they cannot be shared out.
std::vector<bool> need_all_rows(const OptimizerOptions& options, const ParameterList& parameters);

/// The Euclidean norm of each defined gradient, 0-dim on its device; in float64, that of all from those of each.
std::vector<at::Tensor> gradient_norms(const std::vector<at::Tensor>& gradients);
double euclidean_norm(const std::vector<double>& norms);
/// The Euclidean norm over all defined gradients: float32 within a tensor, float64 across tensors.
double gradient_norm(const std::vector<at::Tensor>& gradients);

}  // namespace lmhead
