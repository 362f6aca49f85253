// linear_cross_entropy as differentiable dispatcher operations, so that C++, Python and torch.compile run the same
// code.
//
//   lmhead::linear_cross_entropy            what everybody calls; differentiable
//   lmhead::filtered_linear_cross_entropy   the same with the filter, and its report
//   lmhead::linear_cross_entropy_with_statistics   the same with what its pass knows of every token
#include "lmhead/kernels/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/argsort.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "lmhead/base/error.h"
#include "lmhead/kernels/autocast_type.h"
#include "lmhead/kernels/cross_entropy_function.h"
#include "lmhead/kernels/cross_entropy_operations.h"
#include "lmhead/kernels/find_operation.h"
#include "lmhead/kernels/logit_tiling.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {

const char* mode_name(LinearCrossEntropyMode mode) {
  return mode == LinearCrossEntropyMode::kFast ? "fast" : mode == LinearCrossEntropyMode::kSmall ? "small" : "auto";
}

Reduction reduction_named(c10::string_view name, const char* who) {
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  require(name == "none", who, "reduction must be 'none', 'mean' or 'sum', got '", name, "'");
  return Reduction::kNone;
}

const char* reduction_name(Reduction reduction) {
  return reduction == Reduction::kNone ? "none" : reduction == Reduction::kSum ? "sum" : "mean";
}

LinearCrossEntropyMode choose_linear_cross_entropy_mode(std::int64_t vocab_size, at::ScalarType type,
                                                        const LinearCrossEntropyOptions& options) {
  // Each token's upstream gradient is known only in the backward pass, and the weight gradient mixes all tokens.
  if (options.reduction == Reduction::kNone) return LinearCrossEntropyMode::kSmall;
  // The factor of loss scaling is there so that gradients survive float16: it must come before they are rounded.
  if (type == at::kHalf) return LinearCrossEntropyMode::kSmall;
  if (options.mode != LinearCrossEntropyMode::kAuto) return options.mode;
  return rows_per_kept_block(vocab_size, type) < tile_sizes::kFewestRowsPerBlock ? LinearCrossEntropyMode::kSmall
                                                                                 : LinearCrossEntropyMode::kFast;
}

void check_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options, const char* who) {
  require(hidden.defined() && hidden.dim() == 2 && at::isFloatingType(hidden.scalar_type()), who,
          "hidden must be a floating [N, D], got ", hidden.scalar_type(), " ", hidden.sizes());
  const std::int64_t size = hidden.size(0), width = hidden.size(1);
  require(map.weight.defined() && map.weight.dim() == 2 && map.weight.size(1) == width && map.weight.size(0) > 0, who,
          "weight must be [V, ", width, "], got ", map.weight.sizes());
  const std::int64_t vocab_size = map.weight.size(0);
  require(map.weight.scalar_type() == hidden.scalar_type(), who, "weight must be ", hidden.scalar_type(),
          " as hidden is, got ", map.weight.scalar_type());
  require(targets.defined(), who, "targets must be defined");
  const bool are_ids = targets.dim() == 1 && targets.size(0) == size && targets.scalar_type() == at::kLong;
  const bool are_probabilities = targets.dim() == 2 && targets.size(0) == size && targets.size(1) == vocab_size &&
                                 at::isFloatingType(targets.scalar_type());
  require(are_ids || are_probabilities, who, "targets must be int64 [", size, "] or class probabilities [", size, ", ",
          vocab_size, "], got ", targets.scalar_type(), " ", targets.sizes());
  const auto check_row = [&](const at::Tensor& row, std::int64_t length, const char* name) {
    if (!row.defined()) return;
    require(row.dim() == 1 && row.size(0) == length && at::isFloatingType(row.scalar_type()), who, name,
            " must be a floating [", length, "], got ", row.scalar_type(), " ", row.sizes());
    require(row.device() == hidden.device(), who, name, " must be on ", hidden.device(), ", got ", row.device());
  };
  check_row(map.bias, vocab_size, "bias");
  check_row(options.class_weight, vocab_size, "class_weight");
  check_row(options.token_weight, size, "token_weight");
  check_row(options.temperature, size, "temperature");
  require(map.weight.device() == hidden.device() && targets.device() == hidden.device(), who,
          "hidden, weight and targets must be on one device, got ", hidden.device(), ", ", map.weight.device(), ", ",
          targets.device());
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1, who, "label_smoothing must lie in [0, 1], got ",
          options.label_smoothing);
  check_logit_transform(map.transform, who);
}

namespace {

constexpr const char* kWho = "linear_cross_entropy";

LinearCrossEntropyMode mode_named(c10::string_view name) {
  if (name == "fast") return LinearCrossEntropyMode::kFast;
  if (name == "small") return LinearCrossEntropyMode::kSmall;
  require(name == "auto", kWho, "mode must be 'auto', 'fast' or 'small', got '", name, "'");
  return LinearCrossEntropyMode::kAuto;
}

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Arguments = CrossEntropyArguments;

/// The public operations take a list of arguments, functions here one struct. `More` follow the targets in the list.
template <class Result, class... More>
struct Listed {
  using Kernel = Result (*)(const Arguments&, More...);
  /// The operation that calls `kernel`.
  template <Kernel kernel>
  static Result operation(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, More... more,
                          const OptionalTensor& bias, const OptionalTensor& class_weight,
                          const OptionalTensor& token_weight, const OptionalTensor& temperature,
                          c10::string_view reduction, std::int64_t ignore_index, double label_smoothing, double z_loss,
                          double logit_scale, double logit_softcap, at::ArrayRef<double> sigmoid_cap, bool sigsoftmax,
                          c10::string_view mode) {
    const LinearMap map{weight, value_or_undefined(bias),
                        transform_of(logit_scale, logit_softcap, sigmoid_cap, sigsoftmax, kWho)};
    return kernel(
        {hidden,
         targets,
         map,
         {reduction_named(reduction, kWho), ignore_index, label_smoothing, z_loss, value_or_undefined(class_weight),
          value_or_undefined(token_weight), value_or_undefined(temperature), mode_named(mode)}},
        more...);
  }
  template <class Signature>
  static Result call(const c10::TypedOperatorHandle<Signature>& operation, const Arguments& arguments, More... more) {
    const auto& [hidden, targets, map, options] = arguments;
    return operation.call(hidden, map.weight, targets, more..., optional_of(map.bias),
                          optional_of(options.class_weight), optional_of(options.token_weight),
                          optional_of(options.temperature), reduction_name(options.reduction), options.ignore_index,
                          options.label_smoothing, options.z_loss, map.transform.scale, map.transform.softcap,
                          sigmoid_cap_of(map.transform), map.transform.sigsoftmax, mode_name(options.mode));
  }
};
using Loss = Listed<at::Tensor>;
using WithStatistics = Listed<ThreeTensors>;
using Filtered = Listed<TwoTensors, double>;

// Below autograd the operations only ever need the loss, on meta tensors its shape.

at::Tensor loss_kernel(const Arguments& arguments) { return call_cross_entropy_forward(arguments).loss; }
ThreeTensors statistics_kernel(const Arguments& arguments) {
  const CrossEntropyForwardResults results = call_cross_entropy_forward(arguments, {}, 0, true);
  return {results.loss, results.scores, results.token_gradients};
}
TwoTensors filtered_kernel(const Arguments& arguments, double) {
  const CrossEntropyForwardResults results = call_cross_entropy_forward(arguments);
  return {results.loss, results.filter};
}

at::Tensor call_loss(const Arguments& arguments) {
  static const auto operation = find_operation("lmhead::linear_cross_entropy", &Loss::operation<loss_kernel>);
  return Loss::call(operation, arguments);
}
ThreeTensors call_with_statistics(const Arguments& arguments) {
  static const auto operation =
      find_operation("lmhead::linear_cross_entropy_with_statistics", &WithStatistics::operation<statistics_kernel>);
  return WithStatistics::call(operation, arguments);
}
TwoTensors call_filtered(const Arguments& arguments, double threshold) {
  static const auto operation =
      find_operation("lmhead::filtered_linear_cross_entropy", &Filtered::operation<filtered_kernel>);
  return Filtered::call(operation, arguments, threshold);
}

/// `make()` where anything is to be differentiated, else `below()`, which calls the same operation below autograd.
template <class Below, class Make>
auto where_differentiated(const Arguments& arguments, const Below& below, const Make& make) {
  if (needs_derivatives(tensors_of(arguments))) return make();
  at::AutoDispatchBelowADInplaceOrView guard;
  return below();
}

bool forms_gradients_now(const Arguments& arguments) {
  const std::int64_t vocab_size = arguments.map.weight.sym_size(0).guard_int(__FILE__, __LINE__);
  return choose_linear_cross_entropy_mode(vocab_size, arguments.hidden.scalar_type(), arguments.options) ==
         LinearCrossEntropyMode::kFast;
}

at::Tensor loss_autograd(const Arguments& arguments) {
  return where_differentiated(
      arguments, [&] { return call_loss(arguments); },
      [&] { return differentiable_cross_entropy(arguments, forms_gradients_now(arguments), 0, false).loss; });
}
ThreeTensors statistics_autograd(const Arguments& arguments) {
  return where_differentiated(
      arguments, [&] { return call_with_statistics(arguments); },
      [&]() -> ThreeTensors {
        const auto results = differentiable_cross_entropy(arguments, forms_gradients_now(arguments), 0, true);
        return {results.loss, results.scores, results.token_gradients};
      });
}
TwoTensors filtered_autograd(const Arguments& arguments, double threshold) {
  require(arguments.options.reduction != Reduction::kNone, kWho,
          "the filter needs reduction 'mean' or 'sum', got 'none'");
  require(threshold >= 0, kWho, "threshold must be at least 0, got ", threshold);
  require(!arguments.has_probabilities(), kWho, "the filter needs ids as targets, got class probabilities");
  return where_differentiated(
      arguments, [&] { return call_filtered(arguments, threshold); },
      [&]() -> TwoTensors {
        const auto results = differentiable_cross_entropy(arguments, /*fast=*/true, threshold, false);
        return {results.loss, results.filter};
      });
}

at::Tensor loss_autocast(const Arguments& arguments) { return in_autocast_type(arguments, call_loss); }
ThreeTensors statistics_autocast(const Arguments& arguments) {
  return in_autocast_type(arguments, call_with_statistics);
}
TwoTensors filtered_autocast(const Arguments& arguments, double threshold) {
  return in_autocast_type(arguments, [&](const Arguments& cast) { return call_filtered(cast, threshold); });
}

TORCH_LIBRARY(lmhead, library) {
  const std::string first = "(Tensor hidden, Tensor weight, Tensor targets, ";
  const std::string rest =
      "*, Tensor? bias=None, Tensor? class_weight=None, Tensor? token_weight=None, Tensor? temperature=None, "
      "str reduction='mean', int ignore_index=-100, float label_smoothing=0.0, float z_loss=0.0, " +
      std::string(kTransformSchema) + ", str mode='auto') -> ";
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  define("linear_cross_entropy" + first + rest + "Tensor");
  define("linear_cross_entropy_with_statistics" + first + rest + "(Tensor, Tensor, Tensor)");
  define("filtered_linear_cross_entropy" + first + "float threshold, " + rest + "(Tensor, Tensor)");
}

template <Loss::Kernel loss, WithStatistics::Kernel statistics, Filtered::Kernel filtered>
void implement(torch::Library& library) {
  library.impl("linear_cross_entropy", Loss::operation<loss>);
  library.impl("linear_cross_entropy_with_statistics", WithStatistics::operation<statistics>);
  library.impl("filtered_linear_cross_entropy", Filtered::operation<filtered>);
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  implement<loss_kernel, statistics_kernel, filtered_kernel>(library);
}
TORCH_LIBRARY_IMPL(lmhead, Meta, library) {  // which reach the meta kernel of the private operation
  implement<loss_kernel, statistics_kernel, filtered_kernel>(library);
}
TORCH_LIBRARY_IMPL(lmhead, Autograd, library) {
  implement<loss_autograd, statistics_autograd, filtered_autograd>(library);
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCPU, library) {
  implement<loss_autocast, statistics_autocast, filtered_autocast>(library);
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCUDA, library) {
  implement<loss_autocast, statistics_autocast, filtered_autocast>(library);
}

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options) {
  check_linear_cross_entropy(hidden, map, targets, options, kWho);
  return call_loss({hidden, targets, map, options});
}

CrossEntropyWithStatistics linear_cross_entropy_with_statistics(const at::Tensor& hidden, const LinearMap& map,
                                                                const at::Tensor& targets,
                                                                const LinearCrossEntropyOptions& options) {
  check_linear_cross_entropy(hidden, map, targets, options, kWho);
  const auto [loss, scores, token_gradients] = call_with_statistics({hidden, targets, map, options});
  CrossEntropyWithStatistics result{loss, {}};
  for (std::int64_t row = 0; row < 5; ++row) {
    const at::ScalarType type = kTokenStatistics[row] == &TokenStatistics::correct ? at::kBool : loss.scalar_type();
    result.statistics.*kTokenStatistics[row] = scores.select(0, row).to(type);
  }
  result.statistics.hidden_gradient = token_gradients;
  return result;
}

FilteredCrossEntropy filtered_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                   const at::Tensor& targets, double threshold,
                                                   const LinearCrossEntropyOptions& options) {
  check_linear_cross_entropy(hidden, map, targets, options, kWho);
  const auto [loss, report] = call_filtered({hidden, targets, map, options}, threshold);
  const at::Tensor here = report.cpu();
  const double* numbers = here.const_data_ptr<double>();
  return {loss, {static_cast<std::int64_t>(numbers[0]), static_cast<std::int64_t>(numbers[1]), numbers[2]}};
}

at::Tensor frequency_order(const at::Tensor& counts) {
  require(counts.dim() == 1, "frequency_order", "counts must be [V], got ", counts.sizes());
  return at::argsort(counts, /*stable=*/true, /*dim=*/0, /*descending=*/true);
}

}  // namespace lmhead
