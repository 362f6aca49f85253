#include "lmhead/train/update_rule.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

namespace lmhead {

std::vector<at::Tensor> UpdateRule::zeros() const {
  std::vector<at::Tensor> tensors;
  for (const ParameterPtr& parameter : members_.parameters)
    tensors.push_back(at::zeros_like(parameter->value.detach()));
  return tensors;
}

void UpdateRule::append(NamedTensors& state, const char* name, const std::vector<at::Tensor>& tensors) const {
  for (std::size_t index = 0; index < tensors.size(); ++index)
    state.emplace_back(members_.parameters[index]->name + "." + name, tensors[index]);
}

MomentumRule::MomentumRule(const UpdateOptions& options, RuleMembers members)
    : UpdateRule(std::move(members)), momentum_(options.momentum), nesterov_(options.nesterov), buffers_(zeros()) {}

void MomentumRule::step(std::vector<at::Tensor>& gradients, std::int64_t, double factor) {
  for (std::size_t index = 0; index < members_.parameters.size(); ++index) {
    const at::Tensor& gradient = gradients[members_.places[index]];
    if (!gradient.defined()) continue;
    at::Tensor& buffer = buffers_[index];
    buffer.mul_(momentum_).add_(gradient);
    const at::Tensor smoothed = nesterov_ ? gradient.add(buffer, momentum_) : buffer;
    const double rate = members_.rates[index].learning_rate * factor;
    at::Tensor value = this->value(index);
    value.mul_(1 - rate * members_.rates[index].weight_decay);
    apply(value, smoothed, *members_.parameters[index], rate);
  }
}

}  // namespace lmhead
