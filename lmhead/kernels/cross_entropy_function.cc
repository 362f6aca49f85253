#include "lmhead/kernels/cross_entropy_function.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/gradient_of_gradient.h"
#include "lmhead/kernels/readable_tensor.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_cross_entropy";

/// Multiplies a gradient that was formed for an upstream of one, in place where nobody can see it a second time.
at::Tensor scale_gradient(const at::Tensor& gradient, const at::Tensor& upstream) {
  if (!is_readable(gradient)) return gradient * upstream.to(gradient.scalar_type());
  const double factor = upstream.item().toDouble();
  if (factor == 1) return gradient;
  at::Tensor own = gradient;
  if (!torch::autograd::get_current_graph_task_keep_graph()) return own.mul_(factor);
  return own * factor;
}

struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                                                const at::Tensor& weight, const at::Tensor& targets,
                                                const OptionalTensor& bias, const OptionalTensor& class_weight,
                                                const OptionalTensor& token_weight,
                                                const CrossEntropySettings& settings, Wanted wanted, bool fast,
                                                double filter_threshold, bool statistics) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const CrossEntropyForwardResults results =
        call_cross_entropy_forward({hidden, weight, targets, bias, class_weight, token_weight}, settings,
                                   fast ? wanted : Wanted{}, filter_threshold, statistics);
    // In fast mode hidden and weight are kept only to refuse a second differentiation by name; that costs nothing.
    torch::autograd::variable_list saved{hidden, weight};
    if (fast) {
      saved.insert(saved.end(), results.gradients.begin(), results.gradients.end());
    } else {
      const auto value = [](const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); };
      saved.insert(saved.end(), {targets, value(bias), value(class_weight), value(token_weight), results.row_sums});
    }
    context->save_for_backward(saved);
    context->saved_data["fast"] = fast;
    context->saved_data["wanted"] = std::vector<bool>(wanted.begin(), wanted.end());
    context->saved_data["choices"] = std::vector<std::int64_t>(settings.choices.begin(), settings.choices.end());
    context->saved_data["numbers"] = std::vector<double>(settings.numbers.begin(), settings.numbers.end());
    context->mark_non_differentiable({results.filter, results.scores, results.token_gradients});
    return {results.loss, results.filter, results.scores, results.token_gradients};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& upstreams) {
    torch::autograd::variable_list results(11);
    const at::Tensor& upstream = upstreams[0];
    if (!upstream.defined()) return results;
    const auto saved = context->get_saved_variables();
    const auto wanted_list = context->saved_data["wanted"].toBoolList();
    const Wanted wanted{wanted_list[0], wanted_list[1], wanted_list[2]};
    std::array<at::Tensor, 3> gradients;
    {
      at::AutoDispatchBelowADInplaceOrView guard;
      if (context->saved_data["fast"].toBool()) {
        for (int which = 0; which < 3; ++which)
          if (wanted[which]) gradients[which] = scale_gradient(saved[2 + which], upstream);
      } else {
        CrossEntropySettings settings;
        std::ranges::copy(context->saved_data["choices"].toIntVector(), settings.choices.begin());
        std::ranges::copy(context->saved_data["numbers"].toDoubleVector(), settings.numbers.begin());
        gradients = call_cross_entropy_backward(
            upstream,
            {saved[0], saved[1], saved[2], optional_of(saved[3]), optional_of(saved[4]), optional_of(saved[5])},
            saved[6], settings, wanted);
      }
    }
    const std::array<int, 3> positions{0, 1, 3};
    for (int which = 0; which < 3; ++which)
      if (wanted[which])
        results[positions[which]] = refuse_gradient_of_gradient(kWho, gradients[which], {saved[0], saved[1], upstream});
    return results;
  }
};

}  // namespace

DifferentiableCrossEntropy differentiable_cross_entropy(const CrossEntropyTensors& tensors,
                                                        const CrossEntropySettings& settings, bool fast,
                                                        double filter_threshold, bool statistics) {
  const auto needs = [](const OptionalTensor& tensor) {
    return tensor && tensor->defined() && tensor->requires_grad() && at::GradMode::is_enabled();
  };
  require(!needs(tensors.class_weight) && !needs(tensors.token_weight), kWho,
          "class_weight and token_weight must not require gradients");
  const Wanted wanted{needs(tensors.hidden), needs(tensors.weight), needs(tensors.bias)};
  if (wanted == Wanted{}) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const CrossEntropyForwardResults results = call_cross_entropy_forward(tensors, settings, wanted, 0, statistics);
    return {results.loss, results.filter, results.scores, results.token_gradients};
  }
  auto results = LinearCrossEntropyFunction::apply(tensors.hidden, tensors.weight, tensors.targets, tensors.bias,
                                                   tensors.class_weight, tensors.token_weight, settings, wanted, fast,
                                                   filter_threshold, statistics);
  return {results[0], results[1], results[2], results[3]};
}

}  // namespace lmhead
