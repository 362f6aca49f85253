// One way of updating parameters, over those that fall to it; a file each.
#pragma once

#include <memory>
#include <vector>

#include "lmhead/train/optimizer.h"

namespace lmhead {

/// What one parameter is updated with, before the schedule's factor.
struct Rates {
  double learning_rate, weight_decay;
  auto operator<=>(const Rates&) const = default;
};

/// The parameters of one rule.
struct RuleMembers {
  ParameterList parameters;
  std::vector<Rates> rates;
  std::vector<std::size_t> places;  // of each parameter in the optimiser's whole list
};

class UpdateRule {
 public:
  explicit UpdateRule(RuleMembers members) : members_(std::move(members)) {}
  virtual ~UpdateRule() = default;
  /// As `Optimizer::step`; `gradients` are those of the whole list. Without gradient history.
  virtual void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) = 0;
  virtual void append_state(NamedTensors& state) = 0;

 protected:
  std::vector<at::Tensor> zeros() const;
  void append(NamedTensors& state, const char* name, const std::vector<at::Tensor>& tensors) const;
  at::Tensor value(std::size_t index) const { return members_.parameters[index]->value.detach(); }

  RuleMembers members_;
};

/// Keeps b <- momentum b + g, and leaves to the rule what becomes of u = b (with nesterov: g + momentum b). Memory: one
/// float32 copy, `momentum` in a checkpoint.
class MomentumRule : public UpdateRule {
 public:
  MomentumRule(const UpdateOptions& options, RuleMembers members);
  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) final;
  void append_state(NamedTensors& state) final { append(state, "momentum", buffers_); }

 private:
  /// Adds -rate times the direction that the rule makes of `smoothed` to `value`, which has its decay already.
  virtual void apply(at::Tensor& value, const at::Tensor& smoothed, const Parameter& parameter, double rate) const = 0;

  double momentum_;
  bool nesterov_;
  std::vector<at::Tensor> buffers_;
};

/// Adam with decoupled decay (Loshchilov & Hutter 2019, algorithm 2) through ATen's fused kernel; with `amsgrad` v is
/// replaced by the largest v so far (Reddi et al. 2018), before the correction of its bias as in torch.optim.AdamW.
/// Memory: two float32 copies, `exp_avg` and `exp_avg_sq`; a third, `max_exp_avg_sq`, with amsgrad.
std::unique_ptr<UpdateRule> make_adamw(const UpdateOptions& options, RuleMembers members);

/// AdamW whose second average is one for all rows of a matrix, v_j = mean over rows of v_ij (Stollenwerk & Stollenwerk
/// 2025, arXiv 2502.08441), so that rare words are not divided by a smaller root than frequent ones. Only that mean is
/// kept: an average of means is the mean of averages. Memory: one float32 copy and a row.
std::unique_ptr<UpdateRule> make_coupled_adam(const UpdateOptions& options, RuleMembers members);

/// Stochastic gradient descent: the direction is u itself.
std::unique_ptr<UpdateRule> make_sgd(const UpdateOptions& options, RuleMembers members);

/// Muon (Jordan 2024): u made semi-orthogonal, times the root of max(1, rows / columns); a fused projection part by
/// part. Rows of a head count as its outputs. Costs 20 min^2 max + 10 min^3 FLOPs a step for sides min <= max.
std::unique_ptr<UpdateRule> make_muon(const UpdateOptions& options, RuleMembers members);

/// Every row of u divided by its Euclidean norm, so that the rate is the distance that each row moves: steepest descent
/// in the largest row norm (`RowNorm` without its 1 / sqrt(columns) in the code beside arXiv 2502.07529). A row without
/// any gradient stays; a row with little moves as far as any other.
std::unique_ptr<UpdateRule> make_row_normalized(const UpdateOptions& options, RuleMembers members);

/// sign(u) / columns: steepest descent in the largest entry, as Scion updates input and output layers (`Sign`, Pethick
/// et al. 2025, arXiv 2502.07529). Its constrained form with radius s and rate r is rate r s with weight_decay 1 / s.
std::unique_ptr<UpdateRule> make_sign(const UpdateOptions& options, RuleMembers members);

}  // namespace lmhead
