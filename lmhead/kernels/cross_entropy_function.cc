#include "lmhead/kernels/cross_entropy_function.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/cross_entropy_operations.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/token_statistics.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_cross_entropy";
using torch::autograd::variable_list;

/// The gradients of the recomputing backward pass, whose own derivatives are those of the plain composition.
variable_list gradients_with_derivatives(const CrossEntropyArguments& arguments, const at::Tensor& upstream,
                                         const at::Tensor& row_sums, Wanted wanted) {
  const auto plain = [arguments](const variable_list& inputs) -> variable_list {
    LinearMap map = arguments.map;
    map.weight = inputs[1], map.bias = inputs[2];
    return {plain_linear_cross_entropy(inputs[0], map, arguments.targets, arguments.options)};
  };
  return differentiable_gradients(
      plain, {arguments.hidden, arguments.map.weight, arguments.map.bias}, {upstream}, [&]() -> variable_list {
        const auto found = call_cross_entropy_backward(upstream, arguments, row_sums, wanted);
        variable_list gradients(3);
        for (int which = 0; which < 3; ++which)
          if (wanted[which]) gradients[which] = found[which];
        return gradients;
      });
}

struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                               const at::Tensor& weight, const OptionalTensor& bias,
                               const CrossEntropyArguments& arguments, Wanted wanted, bool fast,
                               double filter_threshold, bool statistics) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const CrossEntropyForwardResults results =
        call_cross_entropy_forward(arguments, fast ? wanted : Wanted{}, filter_threshold, statistics);
    const CrossEntropyTensors tensors = tensors_of(arguments);
    variable_list saved(tensors.begin(), tensors.end());
    saved.push_back(results.row_sums);
    if (fast) saved.insert(saved.end(), results.gradients.begin(), results.gradients.end());
    context->save_for_backward(saved);
    const CrossEntropySettings settings = settings_of(arguments);
    context->saved_data["fast"] = fast;
    context->saved_data["wanted"] = std::vector<bool>(wanted.begin(), wanted.end());
    context->saved_data["choices"] = std::vector<std::int64_t>(settings.choices.begin(), settings.choices.end());
    context->saved_data["numbers"] = std::vector<double>(settings.numbers.begin(), settings.numbers.end());
    context->mark_non_differentiable({results.filter, results.scores, results.token_gradients});
    return {results.loss, results.filter, results.scores, results.token_gradients};
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    variable_list results(8);
    const at::Tensor& upstream = upstreams[0];
    if (!upstream.defined()) return results;
    const auto saved = context->get_saved_variables();
    const auto wanted_list = context->saved_data["wanted"].toBoolList();
    const Wanted wanted{wanted_list[0], wanted_list[1], wanted_list[2]};
    CrossEntropyTensors tensors;
    std::copy_n(saved.begin(), tensors.size(), tensors.begin());
    CrossEntropySettings settings;
    std::ranges::copy(context->saved_data["choices"].toIntVector(), settings.choices.begin());
    std::ranges::copy(context->saved_data["numbers"].toDoubleVector(), settings.numbers.begin());
    const CrossEntropyArguments arguments = arguments_of(tensors, settings);
    const at::Tensor& row_sums = saved[tensors.size()];

    if (at::GradMode::is_enabled() || needs_derivatives({upstream})) {
      std::ranges::copy(gradients_with_derivatives(arguments, upstream, row_sums, wanted), results.begin());
      return results;
    }
    std::array<at::Tensor, 3> gradients;
    if (context->saved_data["fast"].toBool()) {
      at::AutoDispatchBelowADInplaceOrView guard;
      for (int which = 0; which < 3; ++which)
        if (wanted[which]) gradients[which] = scaled_gradient(saved[tensors.size() + 1 + which], upstream);
    } else {
      at::AutoDispatchBelowADInplaceOrView guard;
      gradients = call_cross_entropy_backward(upstream, arguments, row_sums, wanted);
    }
    for (int which = 0; which < 3; ++which)
      if (wanted[which]) results[which] = gradients[which];
    return results;
  }
};

DifferentiableCrossEntropy plain_results(const CrossEntropyArguments& arguments, bool statistics) {
  const auto float64 = arguments.hidden.options().dtype(at::kDouble);
  DifferentiableCrossEntropy results{
      plain_linear_cross_entropy(arguments.hidden, arguments.map, arguments.targets, arguments.options),
      at::zeros({3}, float64), at::zeros({0, arguments.hidden.size(0)}, float64),
      at::zeros({0}, arguments.hidden.options())};
  if (!statistics) return results;
  const at::Tensor kept = arguments.targets.ne(arguments.options.ignore_index);
  const at::Tensor targets = at::where(kept, arguments.targets, at::zeros_like(arguments.targets));
  const TokenStatistics found = kept_statistics(plain_token_statistics(arguments.hidden, arguments.map, targets), kept);
  results.scores = scores_of(found);
  results.token_gradients = found.hidden_gradient;
  return results;
}

}  // namespace

at::Tensor scaled_gradient(const at::Tensor& gradient, const at::Tensor& upstream) {
  if (!is_readable(gradient) || !is_readable(upstream)) return gradient * upstream.to(gradient.scalar_type());
  const double factor = upstream.item().toDouble();
  at::Tensor own = gradient;
  if (torch::autograd::get_current_graph_task_keep_graph()) return own * factor;
  return factor == 1 ? own : own.mul_(factor);
}

DifferentiableCrossEntropy differentiable_cross_entropy(const CrossEntropyArguments& arguments, bool fast,
                                                        double filter_threshold, bool statistics) {
  if (needs_plain_derivatives(tensors_of(arguments))) return plain_results(arguments, statistics);
  const auto needs = [](const at::Tensor& tensor) { return needs_derivatives({tensor}); };
  require(!needs(arguments.options.class_weight) && !needs(arguments.options.token_weight) &&
              !needs(arguments.options.temperature) && !needs(arguments.targets),
          kWho, "class_weight, token_weight, temperature and targets must not require gradients");
  const Wanted wanted{needs(arguments.hidden), needs(arguments.map.weight), needs(arguments.map.bias)};
  const auto results =
      LinearCrossEntropyFunction::apply(arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
                                        arguments, wanted, fast, filter_threshold, statistics);
  return {results[0], results[1], results[2], results[3]};
}

}  // namespace lmhead
