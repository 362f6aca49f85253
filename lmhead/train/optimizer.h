// Optimisers over a list of parameters, with groups that have their own learning rate and decay.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/base/options.h"

namespace lmhead {

/// Parameters whose name matches `pattern` (shell wildcards); what is null is taken from the optimiser.
struct ParameterGroupOptions {
  std::string pattern;
  std::optional<double> learning_rate, weight_decay;
  double learning_rate_scale = 1;  // so that the ratio of two rates can be searched while the base rate moves
  void visit_fields(FieldVisitor& visitor);
};

struct OptimizerOptions {
  std::string type = "adamw";
  double learning_rate = 3e-3;
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  double momentum = 0.95;
  bool nesterov = true;
  std::optional<double> matrix_learning_rate;
  std::vector<ParameterGroupOptions> groups;
  void visit_fields(FieldVisitor& visitor);
};

/// Named tensors of an optimiser, as a checkpoint keeps them.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Applies update number `step` (from 1). `gradients` are float32, one a parameter in the order of the list,
  /// undefined where a parameter had none; they may be overwritten. Every rate is multiplied by `factor`.
  virtual void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) = 0;
  /// The state tensors themselves, to be saved or overwritten; made with zeros where there was no step yet.
  virtual NamedTensors state() = 0;
};

/// AdamW with decoupled decay (Loshchilov & Hutter 2019) through ATen's fused kernel; SGD with (Nesterov) momentum; or
/// Muon (Jordan 2024) for the matrices of the body with AdamW for everything else. Decay is applied to tensors of two
/// dimensions. Throws where a group's pattern matches no parameter. Memory: two (AdamW) or one (SGD, Muon) float32
/// copies.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, const ParameterList& parameters);

/// The nearest semi-orthogonal matrix, roughly: five Newton-Schulz steps of Muon's quintic, in float32. For tests and
/// Muon.
at::Tensor orthogonalise(const at::Tensor& matrix);

/// The Euclidean norm over all defined gradients: float32 within a tensor, float64 across tensors.
double gradient_norm(const std::vector<at::Tensor>& gradients);

}  // namespace lmhead
