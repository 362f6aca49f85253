#include "lmhead/base/module.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "lmhead/base/error.h"
#include "lmhead/base/random.h"

namespace lmhead {

Initializer normal_initializer(double standard_deviation) {
  return [standard_deviation](at::Tensor& tensor, RandomStream& stream) {
    auto* values = tensor.mutable_data_ptr<float>();
    for (std::int64_t index = 0; index < tensor.numel(); ++index)
      values[index] = float(standard_deviation * stream.normal());
  };
}

Initializer constant_initializer(double value) {
  return [value](at::Tensor& tensor, RandomStream&) { tensor.fill_(value); };
}

ParameterPtr ParameterFactory::make(std::string name, ParameterKind kind, at::IntArrayRef shape,
                                    const Initializer& initializer, std::vector<RowPart> parts) const {
  at::Tensor value = at::empty(shape, at::kFloat);
  // Each part draws from a stream of its own name, so that fusing projections changes no initial value.
  std::int64_t row = 0;
  if (parts.empty()) {
    RandomStream stream(seed_, name);
    initializer(value, stream);
  }
  for (const RowPart& part : parts) {
    RandomStream stream(seed_, part.name);
    at::Tensor rows = value.narrow(0, row, part.rows);
    initializer(rows, stream);
    row += part.rows;
  }
  require(parts.empty() || row == value.size(0), name, "parts must cover all ", value.size(0), " rows, got ", row);
  value.requires_grad_(kind != ParameterKind::kConstant);
  return std::make_shared<Parameter>(Parameter{std::move(name), kind, value, value, std::move(parts)});
}

ParameterSource fresh_parameters(std::uint64_t seed) {
  return [factory = ParameterFactory(seed)](const std::string& name, ParameterKind kind,
                                            const std::vector<std::int64_t>& shape, const Initializer& initializer,
                                            const std::vector<RowPart>& parts) {
    return factory.make(name, kind, shape, initializer, parts);
  };
}

ParameterSource unset_parameters() {
  return [](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape, const Initializer&,
            const std::vector<RowPart>& parts) {
    const at::Tensor value = at::empty(shape, at::kFloat).requires_grad_(kind != ParameterKind::kConstant);
    return std::make_shared<Parameter>(Parameter{name, kind, value, value, parts});
  };
}

ParameterSource shapes_alone() {
  return [](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape, const Initializer&,
            const std::vector<RowPart>& parts) {
    const at::Tensor value = at::empty(shape, at::TensorOptions().device(at::kMeta).dtype(at::kFloat));
    return std::make_shared<Parameter>(Parameter{name, kind, value, value, parts});
  };
}

std::int64_t count_trained(const ParameterList& parameters) {
  std::int64_t numbers = 0;
  for (const ParameterPtr& parameter : parameters)
    if (parameter->kind != ParameterKind::kConstant) numbers += parameter->value.numel();
  return numbers;
}

void move_parameters(const ParameterList& parameters, c10::Device device) {
  for (const ParameterPtr& parameter : parameters) {
    if (parameter->value.device() == device) continue;
    const bool is_trained = parameter->value.requires_grad();
    parameter->value = parameter->value.detach().to(device).requires_grad_(is_trained);
    parameter->working = parameter->value;
  }
}

void set_working_type(const ParameterList& parameters, at::ScalarType type) {
  for (const ParameterPtr& parameter : parameters) {
    const bool cast =
        type != at::kFloat && parameter->kind != ParameterKind::kVector && parameter->kind != ParameterKind::kConstant;
    parameter->working = cast ? parameter->value.detach().to(type).requires_grad_(true) : parameter->value;
  }
}

void refresh_working(const ParameterList& parameters) {
  at::NoGradGuard no_grad;
  for (const ParameterPtr& parameter : parameters)
    if (!parameter->working.is_same(parameter->value)) parameter->working.copy_(parameter->value);
}

at::Tensor take_gradient(Parameter& parameter) {
  at::NoGradGuard no_grad;
  at::Tensor gradient = parameter.value.grad();
  parameter.value.mutable_grad().reset();
  if (!parameter.working.is_same(parameter.value)) {
    const at::Tensor working = parameter.working.grad();
    parameter.working.mutable_grad().reset();
    if (working.defined()) gradient = gradient.defined() ? gradient.add_(working) : working.to(at::kFloat);
  }
  return gradient;
}

}  // namespace lmhead
