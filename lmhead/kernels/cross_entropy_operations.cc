#include "lmhead/kernels/cross_entropy_operations.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <string>

#include "lmhead/base/error.h"
#include "lmhead/kernels/cross_entropy_rows.h"
#include "lmhead/kernels/find_operation.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_cross_entropy";
using Tensors3 = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Tensors8 =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

at::Tensor value_or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

CrossEntropyArguments gather_arguments(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                       const OptionalTensor& bias, const OptionalTensor& class_weight,
                                       const OptionalTensor& token_weight, at::IntArrayRef choices,
                                       at::ArrayRef<double> numbers) {
  CrossEntropyArguments arguments{hidden, targets, {weight, value_or_undefined(bias), numbers[2], numbers[3]}, {}};
  arguments.options.reduction = static_cast<Reduction>(choices[0]);
  arguments.options.ignore_index = choices[1];
  arguments.options.label_smoothing = numbers[0];
  arguments.options.z_loss = numbers[1];
  arguments.options.class_weight = value_or_undefined(class_weight);
  arguments.options.token_weight = value_or_undefined(token_weight);
  check_linear_cross_entropy(hidden, arguments.map, targets, arguments.options, kWho);
  return arguments;
}

at::Tensor or_nothing(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::empty({0}, like.options());
}

/// The first five figures as rows of one tensor.
at::Tensor scores_of(const TokenStatistics& statistics, bool wanted, const at::Tensor& hidden) {
  at::Tensor scores = at::zeros({wanted ? 5 : 0, hidden.size(0)}, hidden.options().dtype(at::kDouble));
  if (!wanted || hidden.size(0) == 0) return scores;
  for (std::int64_t row = 0; row < 5; ++row) scores.select(0, row).copy_(statistics.*kTokenStatistics[row]);
  return scores;
}

Tensors8 forward_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                        const OptionalTensor& bias, const OptionalTensor& class_weight,
                        const OptionalTensor& token_weight, at::IntArrayRef choices, at::ArrayRef<double> numbers,
                        Wanted wanted, double filter_threshold, bool statistics) {
  const CrossEntropyArguments arguments =
      gather_arguments(hidden, weight, targets, bias, class_weight, token_weight, choices, numbers);
  const bool tiled = tiled_kernel_takes(arguments);
  require(tiled || filter_threshold <= 0, kWho, "the filter needs float32, float64 or bfloat16 on the CPU, got ",
          hidden.scalar_type(), " on ", hidden.device());
  const WantedGradients gradients{wanted[0], wanted[1], wanted[2]};
  const WantedStatistics figures = statistics ? WantedStatistics::kAll : WantedStatistics::kNone;
  const CrossEntropyForward result = tiled ? tiled_forward(arguments, gradients, filter_threshold, figures)
                                           : chunked_forward(arguments, gradients, figures);
  at::Tensor filter = at::empty({3}, at::kDouble);
  double* report = filter.mutable_data_ptr<double>();
  report[0] = static_cast<double>(result.filter.tiles_seen);
  report[1] = static_cast<double>(result.filter.tiles_skipped);
  report[2] = result.filter.skipped_gradient_norm;
  return {result.loss,
          result.row_sums,
          or_nothing(result.gradients.hidden, hidden),
          or_nothing(result.gradients.weight, weight),
          or_nothing(result.gradients.bias, weight),
          filter,
          scores_of(result.statistics, statistics, hidden),
          or_nothing(result.statistics.hidden_gradient, hidden)};
}

Tensors3 backward_kernel(const at::Tensor& upstream, const at::Tensor& hidden, const at::Tensor& weight,
                         const at::Tensor& targets, const OptionalTensor& bias, const OptionalTensor& class_weight,
                         const OptionalTensor& token_weight, const at::Tensor& row_sums, at::IntArrayRef choices,
                         at::ArrayRef<double> numbers, Wanted wanted) {
  const CrossEntropyArguments arguments =
      gather_arguments(hidden, weight, targets, bias, class_weight, token_weight, choices, numbers);
  const WantedGradients gradients{wanted[0], wanted[1], wanted[2]};
  const CrossEntropyGradients result = tiled_kernel_takes(arguments)
                                           ? tiled_backward(arguments, upstream, row_sums, gradients)
                                           : chunked_backward(arguments, upstream, row_sums, gradients);
  return {or_nothing(result.hidden, hidden), or_nothing(result.weight, weight), or_nothing(result.bias, weight)};
}

at::Tensor like_or_nothing(bool wanted, const at::Tensor& like) {
  return wanted ? at::empty_symint(like.sym_sizes(), like.options()) : at::empty({0}, like.options());
}

Tensors8 forward_meta(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                      const OptionalTensor& bias, const OptionalTensor& class_weight,
                      const OptionalTensor& token_weight, at::IntArrayRef choices, at::ArrayRef<double> numbers,
                      Wanted wanted, double filter_threshold, bool statistics) {
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
                       const OptionalTensor& token_weight, const at::Tensor& row_sums, at::IntArrayRef choices,
                       at::ArrayRef<double> numbers, Wanted wanted) {
  return {like_or_nothing(wanted[0], hidden), like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight)};
}

}  // namespace

CrossEntropyForwardResults call_cross_entropy_forward(const CrossEntropyTensors& tensors,
                                                      const CrossEntropySettings& settings, Wanted wanted,
                                                      double filter_threshold, bool statistics) {
  static const auto operation = find_operation("lmhead::_linear_cross_entropy_forward", &forward_kernel);
  auto [loss, row_sums, d_hidden, d_weight, d_bias, filter, scores, token_gradients] =
      operation.call(tensors.hidden, tensors.weight, tensors.targets, tensors.bias, tensors.class_weight,
                     tensors.token_weight, settings.choices, settings.numbers, wanted, filter_threshold, statistics);
  return {loss, row_sums, {d_hidden, d_weight, d_bias}, filter, scores, token_gradients};
}

std::array<at::Tensor, 3> call_cross_entropy_backward(const at::Tensor& upstream, const CrossEntropyTensors& tensors,
                                                      const at::Tensor& row_sums, const CrossEntropySettings& settings,
                                                      Wanted wanted) {
  static const auto operation = find_operation("lmhead::_linear_cross_entropy_backward", &backward_kernel);
  auto [d_hidden, d_weight, d_bias] =
      operation.call(upstream, tensors.hidden, tensors.weight, tensors.targets, tensors.bias, tensors.class_weight,
                     tensors.token_weight, row_sums, settings.choices, settings.numbers, wanted);
  return {d_hidden, d_weight, d_bias};
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  const std::string inputs =
      "Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? class_weight, Tensor? token_weight, ";
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

}  // namespace lmhead
