#include "lmhead/kernels/plain_derivatives.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/functorch/DynamicLayer.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace lmhead {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool has_tangent(const at::Tensor& tensor) { return tensor.defined() && tensor._fw_grad(/*level=*/0).defined(); }
bool wants_gradient(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

struct HeldComputation : torch::CustomClassHolder {
  explicit HeldComputation(Computation given) : computation(std::move(given)) {}
  Computation computation;
};

struct PlainDerivativesFunction : torch::autograd::Function<PlainDerivativesFunction> {
  static variable_list forward(AutogradContext* context, at::TensorList given, const Computation& fast,
                               const Computation& plain) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const variable_list inputs = given.vec();
    context->save_for_backward(inputs);
    context->saved_data["plain"] = c10::IValue::make_capsule(c10::make_intrusive<HeldComputation>(plain));
    context->set_materialize_grads(false);
    return fast(inputs);
  }
  static variable_list backward(AutogradContext* context, const variable_list& upstreams) {
    const auto held = context->saved_data["plain"].toCapsule();
    variable_list gradients =
        plain_gradients(static_cast<const HeldComputation&>(*held).computation, context->get_saved_variables(),
                        upstreams, /*create_graph=*/at::GradMode::is_enabled());
    gradients.resize(gradients.size() + 2);  // the computations have none
    return gradients;
  }
};

std::vector<bool> which_are_there(const variable_list& tensors) {
  std::vector<bool> result;
  for (const at::Tensor& tensor : tensors) result.push_back(tensor.defined());
  return result;
}
variable_list only_there(const variable_list& tensors) {
  variable_list result;
  std::ranges::copy_if(tensors, std::back_inserter(result), [](const at::Tensor& tensor) { return tensor.defined(); });
  return result;
}
/// The inverse of only_there.
variable_list spread(const variable_list& there, const std::vector<bool>& which) {
  variable_list result(which.size());
  auto next = there.begin();
  for (std::size_t index = 0; index < which.size(); ++index)
    if (which[index]) result[index] = *next++;
  return result;
}

}  // namespace

bool needs_derivatives(at::TensorList inputs) {
  return std::ranges::any_of(inputs, [](const at::Tensor& input) {
    return has_tangent(input) || (at::GradMode::is_enabled() && wants_gradient(input));
  });
}

bool needs_plain_derivatives(at::TensorList inputs) {
  return !at::functorch::getDynamicLayerStack().empty() || std::ranges::any_of(inputs, has_tangent);
}

std::vector<at::Tensor> with_plain_derivatives(const std::vector<at::Tensor>& inputs, const Computation& fast,
                                               const Computation& plain) {
  if (!needs_derivatives(inputs)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return fast(inputs);
  }
  if (needs_plain_derivatives(inputs)) return plain(inputs);
  // The graph knows only the inputs and outputs that are there.
  const std::vector<bool> takes = which_are_there(inputs);
  std::vector<bool> gives;
  const variable_list there = PlainDerivativesFunction::apply(
      at::TensorList(only_there(inputs)), Computation([&](const variable_list& given) {
        const variable_list outputs = fast(spread(given, takes));
        gives = which_are_there(outputs);
        return only_there(outputs);
      }),
      Computation([plain, takes](const variable_list& given) { return only_there(plain(spread(given, takes))); }));
  return spread(there, gives);
}

std::vector<at::Tensor> plain_gradients(const Computation& plain, const std::vector<at::Tensor>& inputs,
                                        const std::vector<at::Tensor>& upstreams, bool create_graph) {
  at::AutoGradMode enabled(true);
  // Views, so that of an input that was computed from another one each gets its own share.
  variable_list leaves = inputs, asked, outputs, given;
  for (at::Tensor& leaf : leaves)
    if (wants_gradient(leaf)) asked.push_back(leaf = leaf.view_as(leaf));
  const variable_list results = plain(leaves);
  for (std::size_t index = 0; index < results.size(); ++index)
    if (wants_gradient(results[index]) && upstreams[index].defined())
      outputs.push_back(results[index]), given.push_back(upstreams[index]);
  variable_list gradients(inputs.size());
  if (asked.empty() || outputs.empty()) return gradients;
  const variable_list found = torch::autograd::grad(outputs, asked, given, create_graph, create_graph,
                                                    /*allow_unused=*/true);
  std::size_t next = 0;
  for (std::size_t index = 0; index < inputs.size(); ++index)
    if (wants_gradient(inputs[index])) gradients[index] = found[next++];
  return gradients;
}

std::vector<at::Tensor> differentiable_gradients(const Computation& plain, const std::vector<at::Tensor>& inputs,
                                                 const std::vector<at::Tensor>& upstreams,
                                                 const std::function<std::vector<at::Tensor>()>& fast) {
  variable_list all = inputs;
  all.insert(all.end(), upstreams.begin(), upstreams.end());
  return with_plain_derivatives(
      all, [&](const variable_list&) { return fast(); },
      [plain, size = static_cast<std::ptrdiff_t>(inputs.size())](const variable_list& given) {
        const auto middle = given.begin() + size;
        return plain_gradients(plain, {given.begin(), middle}, {middle, given.end()}, /*create_graph=*/true);
      });
}

}  // namespace lmhead
