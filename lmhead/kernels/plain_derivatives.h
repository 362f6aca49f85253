// Derivatives that no kernel has a formula for come from the plain composition beside it: forward mode, function
// transforms, and everything beyond the first derivative.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace lmhead {

/// Whether anything is to be differentiated with respect to one of these.
bool needs_derivatives(at::TensorList inputs);
/// Whether what an operation does with these must be plain for its derivatives to be right: where one carries a tangent
/// of forward mode, or within a transform of torch.func, whose levels a hand-written backward pass does not see.
bool needs_plain_derivatives(at::TensorList inputs);

/// Some outputs from some inputs; an undefined tensor stands for one that is not there.
using Computation = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

/// The outputs of `fast`, whose derivatives of any order are those of `plain`, at its cost and only where they are
/// asked for. Both define the same outputs.
std::vector<at::Tensor> with_plain_derivatives(const std::vector<at::Tensor>& inputs, const Computation& fast,
                                               const Computation& plain);

/// The gradients of `plain` with respect to those inputs that require one, for the gradients `upstreams` of its
/// outputs. They are differentiable themselves where `create_graph`.
std::vector<at::Tensor> plain_gradients(const Computation& plain, const std::vector<at::Tensor>& inputs,
                                        const std::vector<at::Tensor>& upstreams, bool create_graph);

/// What a hand-written backward pass with the gradients `fast` of `inputs` returns: those, and under create_graph their
/// own derivatives by `plain`, the operation itself. `fast` defines the gradients of those inputs that require one.
std::vector<at::Tensor> differentiable_gradients(const Computation& plain, const std::vector<at::Tensor>& inputs,
                                                 const std::vector<at::Tensor>& upstreams,
                                                 const std::function<std::vector<at::Tensor>()>& fast);

}  // namespace lmhead
