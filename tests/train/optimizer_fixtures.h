// Parameters of every kind, and steps beside those of a float64 reference.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "lmhead/base/random.h"
#include "lmhead/train/optimizer.h"

namespace lmhead {

inline at::Tensor normal(at::IntArrayRef shape, const std::string& name, std::uint64_t index = 0) {
  at::Tensor tensor = at::zeros(shape, at::kDouble);
  RandomStream stream(2, name, index);
  for (std::int64_t at = 0; at < tensor.numel(); ++at) tensor.mutable_data_ptr<double>()[at] = stream.normal();
  return tensor;
}

/// One of every kind, a fused one among them.
inline ParameterList make_parameters() {
  const ParameterFactory factory(0);
  const auto init = normal_initializer(0.5);
  return {factory.make("model.embed_tokens.weight", ParameterKind::kEmbedding, {11, 4}, init),
          factory.make("model.layers.0.qkv_proj.weight", ParameterKind::kMatrix, {8, 4}, init,
                       {{"q", 5}, {"k", 2}, {"v", 1}}),
          factory.make("model.layers.0.down_proj.weight", ParameterKind::kMatrix, {4, 9}, init),
          factory.make("model.norm.weight", ParameterKind::kVector, {4}, init),
          factory.make("lm_head.weight", ParameterKind::kHead, {11, 4}, init),
          factory.make("lm_head.bias", ParameterKind::kBias, {11}, init)};
}

/// What five steps of a published definition do to one parameter, in float64.
using ReferenceUpdate = std::function<void(std::size_t index, at::Tensor& value, const at::Tensor& gradient,
                                           std::int64_t step, double factor)>;

/// Five steps of the optimiser and of the reference with the same random gradients; every value must agree.
inline void expect_same_steps(const OptimizerOptions& options, const ParameterList& parameters,
                              const ReferenceUpdate& update, double tolerance) {
  const auto optimizer = make_optimizer(options, parameters);
  std::vector<at::Tensor> values;
  for (const ParameterPtr& parameter : parameters) values.push_back(parameter->value.detach().to(at::kDouble));
  for (std::int64_t step = 1; step <= 5; ++step) {
    const double factor = 1.0 / double(step);
    std::vector<at::Tensor> gradients;
    for (std::size_t index = 0; index < parameters.size(); ++index) {
      const at::Tensor gradient =
          normal(values[index].sizes(), parameters[index]->name, std::uint64_t(step)).to(at::kFloat);
      update(index, values[index], gradient.to(at::kDouble), step, factor);
      gradients.push_back(gradient);
    }
    optimizer->step(gradients, step, factor);
    for (std::size_t index = 0; index < parameters.size(); ++index)
      EXPECT_LE((parameters[index]->value.detach().to(at::kDouble) - values[index]).abs().max().item<double>(),
                tolerance)
          << parameters[index]->name << " at step " << step;
  }
}

}  // namespace lmhead
