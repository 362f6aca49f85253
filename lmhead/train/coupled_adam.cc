#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "lmhead/train/update_rule.h"

namespace lmhead {
namespace {

class CoupledAdam : public UpdateRule {
 public:
  CoupledAdam(const UpdateOptions& options, RuleMembers members)
      : UpdateRule(std::move(members)), options_(options), exp_avg_(zeros()) {
    for (const ParameterPtr& parameter : members_.parameters)
      exp_avg_sq_.push_back(at::zeros({parameter->value.size(1)}, parameter->value.options()));
  }

  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    const double first = options_.betas[0], second = options_.betas[1];
    const double first_correction = 1 - std::pow(first, double(step));
    const double second_correction = 1 - std::pow(second, double(step));
    for (std::size_t index = 0; index < members_.parameters.size(); ++index) {
      const at::Tensor& gradient = gradients[members_.places[index]];
      if (!gradient.defined()) continue;
      exp_avg_[index].lerp_(gradient, 1 - first);
      // The norm of a column in float64 needs no matrix of squares.
      const at::Tensor mean_square =
          at::linalg_vector_norm(gradient, 2, {0}, false, at::kDouble).square().div(double(gradient.size(0)));
      exp_avg_sq_[index].mul_(second).add_(mean_square, 1 - second);
      const at::Tensor root = exp_avg_sq_[index].div(second_correction).sqrt().add(options_.eps);
      const double rate = members_.rates[index].learning_rate * factor;
      at::Tensor value = this->value(index);
      value.mul_(1 - rate * members_.rates[index].weight_decay);
      value.addcdiv_(exp_avg_[index], root, -rate / first_correction);
    }
  }
  void append_state(NamedTensors& state) override {
    append(state, "exp_avg", exp_avg_);
    append(state, "exp_avg_sq", exp_avg_sq_);
  }

 private:
  UpdateOptions options_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;  // [V, D], [D]
};

}  // namespace

std::unique_ptr<UpdateRule> make_coupled_adam(const UpdateOptions& options, RuleMembers members) {
  return std::make_unique<CoupledAdam>(options, std::move(members));
}

}  // namespace lmhead
