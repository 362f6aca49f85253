#include "lmhead/kernels/cross_entropy_operations.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/chunked_cross_entropy.h"
#include "lmhead/kernels/find_operation.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/tiled_cross_entropy.h"

namespace lmhead {

CrossEntropySettings settings_of(const CrossEntropyArguments& arguments) {
  const LinearCrossEntropyOptions& options = arguments.options;
  CrossEntropySettings settings{{static_cast<std::int64_t>(options.reduction), options.ignore_index},
                                {options.label_smoothing, options.z_loss}};
  std::ranges::copy(numbers_of(arguments.map.transform), settings.numbers.begin() + 2);
  return settings;
}

void apply_settings(const CrossEntropySettings& settings, CrossEntropyArguments& arguments) {
  arguments.options.reduction = static_cast<Reduction>(settings.choices[0]);
  arguments.options.ignore_index = settings.choices[1];
  arguments.options.label_smoothing = settings.numbers[0];
  arguments.options.z_loss = settings.numbers[1];
  arguments.map.transform = transform_of(at::ArrayRef<double>(settings.numbers).slice(2));
}

CrossEntropyTensors tensors_of(const CrossEntropyArguments& arguments) {
  return {arguments.hidden,
          arguments.map.weight,
          arguments.targets,
          arguments.map.bias,
          arguments.options.class_weight,
          arguments.options.token_weight,
          arguments.options.temperature};
}

CrossEntropyArguments arguments_of(const CrossEntropyTensors& tensors, const CrossEntropySettings& settings) {
  CrossEntropyArguments arguments{tensors[0], tensors[2], {tensors[1], tensors[3]}, {}};
  arguments.options.class_weight = tensors[4];
  arguments.options.token_weight = tensors[5];
  arguments.options.temperature = tensors[6];
  apply_settings(settings, arguments);
  return arguments;
}

at::Tensor scores_of(const TokenStatistics& statistics) {
  std::vector<at::Tensor> rows;
  for (std::int64_t row = 0; row < 5; ++row) rows.push_back((statistics.*kTokenStatistics[row]).to(at::kDouble));
  return at::stack(rows);
}

namespace {

constexpr const char* kWho = "linear_cross_entropy";
using Tensors3 = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Tensors8 =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

CrossEntropyArguments gather(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                             const OptionalTensor& bias, const OptionalTensor& class_weight,
                             const OptionalTensor& token_weight, const OptionalTensor& temperature,
                             at::IntArrayRef choices, at::ArrayRef<double> numbers) {
  CrossEntropySettings settings;
  std::ranges::copy(choices, settings.choices.begin());
  std::ranges::copy(numbers, settings.numbers.begin());
  const CrossEntropyArguments arguments =
      arguments_of({hidden, weight, targets, value_or_undefined(bias), value_or_undefined(class_weight),
                    value_or_undefined(token_weight), value_or_undefined(temperature)},
                   settings);
  check_linear_cross_entropy(hidden, arguments.map, targets, arguments.options, kWho);
  return arguments;
}

at::Tensor tensor_of(const FilterReport& report, const at::Tensor& like) {
  at::Tensor tensor = at::empty({3}, at::kDouble);
  double* numbers = tensor.mutable_data_ptr<double>();
  numbers[0] = static_cast<double>(report.tiles_seen);
  numbers[1] = static_cast<double>(report.tiles_skipped);
  numbers[2] = report.skipped_gradient_norm;
  return tensor.to(like.device());
}

Tensors8 forward_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                        const OptionalTensor& bias, const OptionalTensor& class_weight,
                        const OptionalTensor& token_weight, const OptionalTensor& temperature, at::IntArrayRef choices,
                        at::ArrayRef<double> numbers, Wanted wanted, double filter_threshold, bool statistics) {
  const CrossEntropyArguments arguments =
      gather(hidden, weight, targets, bias, class_weight, token_weight, temperature, choices, numbers);
  const bool tiled = tiled_kernel_takes(arguments);
  require(tiled || filter_threshold <= 0, kWho, "the filter needs float32, float64 or bfloat16 on the CPU, got ",
          hidden.scalar_type(), " on ", hidden.device());
  require(!statistics || (!arguments.has_probabilities() && !temperature), kWho,
          "statistics are those of ids as targets without a temperature");
  const WantedGradients gradients{wanted[0], wanted[1], wanted[2]};
  const WantedStatistics figures = statistics ? WantedStatistics::kAll : WantedStatistics::kNone;
  const CrossEntropyForward result = tiled ? tiled_forward(arguments, gradients, filter_threshold, figures)
                                           : chunked_forward(arguments, gradients, figures);
  const bool has_scores = statistics && hidden.size(0) > 0;
  return {result.loss,
          result.row_sums,
          or_nothing(result.gradients.hidden, hidden),
          or_nothing(result.gradients.weight, weight),
          or_nothing(result.gradients.bias, weight),
          tensor_of(result.filter, hidden),
          has_scores ? scores_of(result.statistics)
                     : at::empty({statistics ? 5 : 0, hidden.size(0)}, hidden.options().dtype(at::kDouble)),
          or_nothing(result.statistics.hidden_gradient, hidden)};
}

Tensors3 backward_kernel(const at::Tensor& upstream, const at::Tensor& hidden, const at::Tensor& weight,
                         const at::Tensor& targets, const OptionalTensor& bias, const OptionalTensor& class_weight,
                         const OptionalTensor& token_weight, const OptionalTensor& temperature,
                         const at::Tensor& row_sums, at::IntArrayRef choices, at::ArrayRef<double> numbers,
                         Wanted wanted) {
  const CrossEntropyArguments arguments =
      gather(hidden, weight, targets, bias, class_weight, token_weight, temperature, choices, numbers);
  const WantedGradients gradients{wanted[0], wanted[1], wanted[2]};
  const CrossEntropyGradients result = tiled_kernel_takes(arguments)
                                           ? tiled_backward(arguments, upstream, row_sums, gradients)
                                           : chunked_backward(arguments, upstream, row_sums, gradients);
  return {or_nothing(result.hidden, hidden), or_nothing(result.weight, weight), or_nothing(result.bias, weight)};
}

Tensors8 forward_meta(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                      const OptionalTensor& bias, const OptionalTensor& class_weight,
                      const OptionalTensor& token_weight, const OptionalTensor& temperature, at::IntArrayRef choices,
                      at::ArrayRef<double> numbers, Wanted wanted, double filter_threshold, bool statistics) {
  const auto loss_options = hidden.options().dtype(loss_type(hidden.scalar_type()));
  const bool per_token = static_cast<Reduction>(choices[0]) == Reduction::kNone;
  const c10::SymInt size = hidden.sym_size(0);
  return {per_token ? at::empty_symint({size}, loss_options) : at::empty({}, loss_options),
          at::empty_symint({size, 2}, hidden.options().dtype(at::kDouble)),
          like_or_nothing(wanted[0], hidden),
          like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight),
          at::empty({3}, hidden.options().dtype(at::kDouble)),
          at::empty_symint({statistics ? 5 : 0, size}, hidden.options().dtype(at::kDouble)),
          statistics ? at::empty_symint(hidden.sym_sizes(), loss_options) : at::empty({0}, hidden.options())};
}

Tensors3 backward_meta(const at::Tensor& upstream, const at::Tensor& hidden, const at::Tensor& weight,
                       const at::Tensor& targets, const OptionalTensor& bias, const OptionalTensor& class_weight,
                       const OptionalTensor& token_weight, const OptionalTensor& temperature,
                       const at::Tensor& row_sums, at::IntArrayRef choices, at::ArrayRef<double> numbers,
                       Wanted wanted) {
  return {like_or_nothing(wanted[0], hidden), like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight)};
}

}  // namespace

CrossEntropyForwardResults call_cross_entropy_forward(const CrossEntropyArguments& arguments, Wanted wanted,
                                                      double filter_threshold, bool statistics) {
  static const auto operation = find_operation("lmhead::_linear_cross_entropy_forward", &forward_kernel);
  const CrossEntropySettings settings = settings_of(arguments);
  const LinearCrossEntropyOptions& options = arguments.options;
  auto [loss, row_sums, d_hidden, d_weight, d_bias, filter, scores, token_gradients] = operation.call(
      arguments.hidden, arguments.map.weight, arguments.targets, optional_of(arguments.map.bias),
      optional_of(options.class_weight), optional_of(options.token_weight), optional_of(options.temperature),
      settings.choices, settings.numbers, wanted, filter_threshold, statistics);
  return {loss, row_sums, {d_hidden, d_weight, d_bias}, filter, scores, token_gradients};
}

std::array<at::Tensor, 3> call_cross_entropy_backward(const at::Tensor& upstream,
                                                      const CrossEntropyArguments& arguments,
                                                      const at::Tensor& row_sums, Wanted wanted) {
  static const auto operation = find_operation("lmhead::_linear_cross_entropy_backward", &backward_kernel);
  const CrossEntropySettings settings = settings_of(arguments);
  const LinearCrossEntropyOptions& options = arguments.options;
  auto [d_hidden, d_weight, d_bias] = operation.call(
      upstream, arguments.hidden, arguments.map.weight, arguments.targets, optional_of(arguments.map.bias),
      optional_of(options.class_weight), optional_of(options.token_weight), optional_of(options.temperature), row_sums,
      settings.choices, settings.numbers, wanted);
  return {d_hidden, d_weight, d_bias};
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  const std::string inputs =
      "Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? class_weight, Tensor? token_weight, "
      "Tensor? temperature, ";
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  define("_linear_cross_entropy_forward(" + inputs +
         "int[] choices, float[] numbers, bool[3] wanted, float filter_threshold, bool statistics) -> "
         "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  define("_linear_cross_entropy_backward(Tensor upstream, " + inputs +
         "Tensor row_sums, int[] choices, float[] numbers, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  library.impl("_linear_cross_entropy_forward", forward_kernel);
  library.impl("_linear_cross_entropy_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, Meta, library) {
  library.impl("_linear_cross_entropy_forward", forward_meta);
  library.impl("_linear_cross_entropy_backward", backward_meta);
}
// Whoever calls them past linear_cross_entropy is told that they have no derivatives.
TORCH_LIBRARY_IMPL(lmhead, Autograd, library) {
  library.impl("_linear_cross_entropy_forward", torch::autograd::autogradNotImplementedFallback());
  library.impl("_linear_cross_entropy_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace lmhead
