// linear_cross_entropy as dispatcher operations, so that C++, Python and torch.compile run the same code.
//
//   lmhead::linear_cross_entropy            what everybody calls; differentiable
//   lmhead::filtered_linear_cross_entropy   the same with the filter, and its report
//   lmhead::_linear_cross_entropy_forward   loss, row sums and, in fast mode, gradients for an upstream of one
//   lmhead::_linear_cross_entropy_backward  gradients from recomputed logits
#include "lmhead/kernels/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/cross_entropy_rows.h"
#include "lmhead/kernels/gradient_of_gradient.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {

at::ScalarType loss_type(at::ScalarType hidden_type) { return hidden_type == at::kDouble ? at::kDouble : at::kFloat; }

const char* mode_name(LinearCrossEntropyMode mode) {
  return mode == LinearCrossEntropyMode::kFast ? "fast" : mode == LinearCrossEntropyMode::kSmall ? "small" : "auto";
}

LinearCrossEntropyMode choose_linear_cross_entropy_mode(std::int64_t vocab_size, at::ScalarType type,
                                                        const LinearCrossEntropyOptions& options) {
  // Each token's upstream gradient is known only in the backward pass, and the weight gradient mixes all tokens.
  if (options.reduction == Reduction::kNone) return LinearCrossEntropyMode::kSmall;
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
  require(targets.defined() && targets.dim() == 1 && targets.size(0) == size && targets.scalar_type() == at::kLong, who,
          "targets must be int64 [", size, "], got ", targets.scalar_type(), " ", targets.sizes());
  const auto check_row = [&](const at::Tensor& row, std::int64_t length, const char* name) {
    if (!row.defined()) return;
    require(row.dim() == 1 && row.size(0) == length && at::isFloatingType(row.scalar_type()), who, name,
            " must be a floating [", length, "], got ", row.scalar_type(), " ", row.sizes());
    require(row.device() == hidden.device(), who, name, " must be on ", hidden.device(), ", got ", row.device());
  };
  check_row(map.bias, vocab_size, "bias");
  check_row(options.class_weight, vocab_size, "class_weight");
  check_row(options.token_weight, size, "token_weight");
  require(map.weight.device() == hidden.device() && targets.device() == hidden.device(), who,
          "hidden, weight and targets must be on one device, got ", hidden.device(), ", ", map.weight.device(), ", ",
          targets.device());
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1, who,
          "label_smoothing must lie in [0, 1], got ", options.label_smoothing);
  require(map.logit_softcap >= 0, who, "logit_softcap must be at least 0, got ", map.logit_softcap);
}

namespace {

constexpr const char* kWho = "linear_cross_entropy";
using OptionalTensor = std::optional<at::Tensor>;
using Tensors3 = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Tensors6 = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// What of the options is no tensor, in the two lists that the private operations take.
struct Settings {
  std::array<std::int64_t, 2> choices;  // reduction, ignore_index
  std::array<double, 4> numbers;        // label_smoothing, z_loss, logit_scale, logit_softcap
};

at::Tensor value_or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }
OptionalTensor optional_of(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

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

Reduction reduction_named(c10::string_view name) {
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  require(name == "none", kWho, "reduction must be 'none', 'mean' or 'sum', got '", name, "'");
  return Reduction::kNone;
}
LinearCrossEntropyMode mode_named(c10::string_view name) {
  if (name == "fast") return LinearCrossEntropyMode::kFast;
  if (name == "small") return LinearCrossEntropyMode::kSmall;
  require(name == "auto", kWho, "mode must be 'auto', 'fast' or 'small', got '", name, "'");
  return LinearCrossEntropyMode::kAuto;
}
std::string reduction_name(Reduction reduction) {
  return reduction == Reduction::kNone ? "none" : reduction == Reduction::kSum ? "sum" : "mean";
}

// The private operations.

at::Tensor or_nothing(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::empty({0}, like.options());
}

Tensors6 forward_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                        const OptionalTensor& bias, const OptionalTensor& class_weight,
                        const OptionalTensor& token_weight, at::IntArrayRef choices, at::ArrayRef<double> numbers,
                        std::array<bool, 3> wanted, double filter_threshold) {
  const CrossEntropyArguments arguments =
      gather_arguments(hidden, weight, targets, bias, class_weight, token_weight, choices, numbers);
  const bool tiled = tiled_kernel_takes(arguments);
  require(tiled || filter_threshold <= 0, kWho, "the filter needs float32, float64 or bfloat16 on the CPU, got ",
          hidden.scalar_type(), " on ", hidden.device());
  const WantedGradients gradients{wanted[0], wanted[1], wanted[2]};
  const CrossEntropyForward result =
      tiled ? tiled_forward(arguments, gradients, filter_threshold) : chunked_forward(arguments, gradients);
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
          filter};
}

Tensors3 backward_kernel(const at::Tensor& upstream, const at::Tensor& hidden, const at::Tensor& weight,
                         const at::Tensor& targets, const OptionalTensor& bias, const OptionalTensor& class_weight,
                         const OptionalTensor& token_weight, const at::Tensor& row_sums, at::IntArrayRef choices,
                         at::ArrayRef<double> numbers, std::array<bool, 3> wanted) {
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

Tensors6 forward_meta(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                      const OptionalTensor& bias, const OptionalTensor& class_weight,
                      const OptionalTensor& token_weight, at::IntArrayRef choices, at::ArrayRef<double> numbers,
                      std::array<bool, 3> wanted, double filter_threshold) {
  const auto loss_options = hidden.options().dtype(loss_type(hidden.scalar_type()));
  const bool per_token = static_cast<Reduction>(choices[0]) == Reduction::kNone;
  const c10::SymInt size = hidden.sym_size(0);
  return {per_token ? at::empty_symint({size}, loss_options) : at::empty({}, loss_options),
          at::empty_symint({size, 2}, hidden.options().dtype(at::kDouble)),
          like_or_nothing(wanted[0], hidden),
          like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight),
          at::empty({3}, hidden.options().dtype(at::kDouble))};
}

Tensors3 backward_meta(const at::Tensor& upstream, const at::Tensor& hidden, const at::Tensor& weight,
                       const at::Tensor& targets, const OptionalTensor& bias, const OptionalTensor& class_weight,
                       const OptionalTensor& token_weight, const at::Tensor& row_sums, at::IntArrayRef choices,
                       at::ArrayRef<double> numbers, std::array<bool, 3> wanted) {
  return {like_or_nothing(wanted[0], hidden), like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight)};
}

template <class Signature>
c10::TypedOperatorHandle<Signature> find_operation(const char* name, Signature*) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}
template <class... Arguments>
auto call_forward(const Arguments&... arguments) {
  static const auto operation = find_operation("lmhead::_linear_cross_entropy_forward", &forward_kernel);
  return operation.call(arguments...);
}
template <class... Arguments>
auto call_backward(const Arguments&... arguments) {
  static const auto operation = find_operation("lmhead::_linear_cross_entropy_backward", &backward_kernel);
  return operation.call(arguments...);
}

// Autograd.

/// Multiplies a gradient that was formed for an upstream of one, in place where nobody can see it a second time.
at::Tensor scale_gradient(const at::Tensor& gradient, const at::Tensor& upstream) {
  const bool traced = gradient.key_set().has(c10::DispatchKey::Python) || gradient.is_meta();
  if (traced || !gradient.is_cpu()) return gradient * upstream.to(gradient.scalar_type());
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
                                                const OptionalTensor& token_weight, const Settings& settings,
                                                std::array<bool, 3> wanted, bool fast, double filter_threshold) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const std::array<bool, 3> now = fast ? wanted : std::array<bool, 3>{};
    auto [loss, row_sums, d_hidden, d_weight, d_bias, filter] =
        call_forward(hidden, weight, targets, bias, class_weight, token_weight, at::IntArrayRef(settings.choices),
                     at::ArrayRef<double>(settings.numbers), now, filter_threshold);
    // In fast mode hidden and weight are kept only to refuse a second differentiation by name; that costs nothing.
    torch::autograd::variable_list saved{hidden, weight};
    if (fast) {
      saved.insert(saved.end(), {d_hidden, d_weight, d_bias});
    } else {
      saved.insert(saved.end(), {targets, value_or_undefined(bias), value_or_undefined(class_weight),
                                 value_or_undefined(token_weight), row_sums});
    }
    context->save_for_backward(saved);
    context->saved_data["fast"] = fast;
    context->saved_data["wanted"] = std::vector<bool>(wanted.begin(), wanted.end());
    context->saved_data["choices"] = std::vector<std::int64_t>(settings.choices.begin(), settings.choices.end());
    context->saved_data["numbers"] = std::vector<double>(settings.numbers.begin(), settings.numbers.end());
    context->mark_non_differentiable({filter});
    return {loss, filter};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& upstreams) {
    const at::Tensor& upstream = upstreams[0];
    const auto saved = context->get_saved_variables();
    const auto wanted_list = context->saved_data["wanted"].toBoolList();
    const std::array<bool, 3> wanted{wanted_list[0], wanted_list[1], wanted_list[2]};
    std::array<at::Tensor, 3> gradients;
    if (upstream.defined()) {
      at::AutoDispatchBelowADInplaceOrView guard;
      if (context->saved_data["fast"].toBool()) {
        for (int which = 0; which < 3; ++which)
          if (wanted[which]) gradients[which] = scale_gradient(saved[2 + which], upstream);
      } else {
        const auto choices = context->saved_data["choices"].toIntVector();
        const auto numbers = context->saved_data["numbers"].toDoubleVector();
        std::tie(gradients[0], gradients[1], gradients[2]) =
            call_backward(upstream, saved[0], saved[1], saved[2], optional_of(saved[3]), optional_of(saved[4]),
                          optional_of(saved[5]), saved[6], at::IntArrayRef(choices), at::ArrayRef<double>(numbers), wanted);
      }
    }
    torch::autograd::variable_list results(10);
    const std::array<int, 3> positions{0, 1, 3};
    for (int which = 0; which < 3; ++which) {
      if (wanted[which] && gradients[which].defined())
        results[positions[which]] = refuse_gradient_of_gradient(kWho, gradients[which], {saved[0], saved[1], upstream});
    }
    return results;
  }
};

std::tuple<at::Tensor, at::Tensor> differentiable(const at::Tensor& hidden, const at::Tensor& weight,
                                                  const at::Tensor& targets, const OptionalTensor& bias,
                                                  const OptionalTensor& class_weight,
                                                  const OptionalTensor& token_weight, const Settings& settings,
                                                  bool fast, double filter_threshold) {
  const auto needs = [](const OptionalTensor& tensor) {
    return tensor && tensor->defined() && tensor->requires_grad() && at::GradMode::is_enabled();
  };
  require(!needs(class_weight) && !needs(token_weight), kWho, "class_weight and token_weight must not require gradients");
  const std::array<bool, 3> wanted{needs(hidden), needs(weight), needs(bias)};
  if (!wanted[0] && !wanted[1] && !wanted[2]) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto results = call_forward(hidden, weight, targets, bias, class_weight, token_weight,
                                at::IntArrayRef(settings.choices), at::ArrayRef<double>(settings.numbers), wanted, 0.0);
    return {std::get<0>(results), std::get<5>(results)};
  }
  auto results = LinearCrossEntropyFunction::apply(hidden, weight, targets, bias, class_weight, token_weight, settings,
                                                   wanted, fast, filter_threshold);
  return {results[0], results[1]};
}

bool forms_gradients_now(const at::Tensor& hidden, const at::Tensor& weight, Reduction reduction,
                         LinearCrossEntropyMode mode) {
  LinearCrossEntropyOptions options;
  options.reduction = reduction, options.mode = mode;
  const std::int64_t vocab_size = weight.sym_size(0).guard_int(__FILE__, __LINE__);
  return choose_linear_cross_entropy_mode(vocab_size, hidden.scalar_type(), options) == LinearCrossEntropyMode::kFast;
}

// The public operations. Below autograd they only ever need the loss.

at::Tensor autograd_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                           const OptionalTensor& bias, const OptionalTensor& class_weight,
                           const OptionalTensor& token_weight, c10::string_view reduction, std::int64_t ignore_index,
                           double label_smoothing, double z_loss, double logit_scale, double logit_softcap,
                           c10::string_view mode) {
  const Reduction how = reduction_named(reduction);
  const Settings settings{{static_cast<std::int64_t>(how), ignore_index},
                          {label_smoothing, z_loss, logit_scale, logit_softcap}};
  return std::get<0>(differentiable(hidden, weight, targets, bias, class_weight, token_weight, settings,
                                    forms_gradients_now(hidden, weight, how, mode_named(mode)), 0));
}

at::Tensor loss_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                       const OptionalTensor& bias, const OptionalTensor& class_weight,
                       const OptionalTensor& token_weight, c10::string_view reduction, std::int64_t ignore_index,
                       double label_smoothing, double z_loss, double logit_scale, double logit_softcap,
                       c10::string_view mode) {
  mode_named(mode);
  const Settings settings{{static_cast<std::int64_t>(reduction_named(reduction)), ignore_index},
                          {label_smoothing, z_loss, logit_scale, logit_softcap}};
  return std::get<0>(call_forward(hidden, weight, targets, bias, class_weight, token_weight,
                                  at::IntArrayRef(settings.choices), at::ArrayRef<double>(settings.numbers),
                                  std::array<bool, 3>{}, 0.0));
}

at::Tensor autocast_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                           const OptionalTensor& bias, const OptionalTensor& class_weight,
                           const OptionalTensor& token_weight, c10::string_view reduction, std::int64_t ignore_index,
                           double label_smoothing, double z_loss, double logit_scale, double logit_softcap,
                           c10::string_view mode) {
  const auto device = hidden.device().type();
  c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const at::Tensor& tensor) { return at::autocast::cached_cast(type, tensor, device); };
  static const auto operation = find_operation("lmhead::linear_cross_entropy", &loss_kernel);
  return operation.call(cast(hidden), cast(weight), targets, bias, class_weight, token_weight, reduction, ignore_index,
                        label_smoothing, z_loss, logit_scale, logit_softcap, mode);
}

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
TwoTensors filtered_autograd_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                    double threshold, const OptionalTensor& bias, const OptionalTensor& class_weight,
                                    const OptionalTensor& token_weight, c10::string_view reduction,
                                    std::int64_t ignore_index, double label_smoothing, double z_loss,
                                    double logit_scale, double logit_softcap) {
  const Reduction how = reduction_named(reduction);
  require(how != Reduction::kNone, kWho, "the filter needs reduction 'mean' or 'sum', got 'none'");
  require(threshold >= 0, kWho, "threshold must be at least 0, got ", threshold);
  const Settings settings{{static_cast<std::int64_t>(how), ignore_index},
                          {label_smoothing, z_loss, logit_scale, logit_softcap}};
  return differentiable(hidden, weight, targets, bias, class_weight, token_weight, settings, true, threshold);
}
TwoTensors filtered_loss_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                double threshold, const OptionalTensor& bias, const OptionalTensor& class_weight,
                                const OptionalTensor& token_weight, c10::string_view reduction,
                                std::int64_t ignore_index, double label_smoothing, double z_loss, double logit_scale,
                                double logit_softcap) {
  const Settings settings{{static_cast<std::int64_t>(reduction_named(reduction)), ignore_index},
                          {label_smoothing, z_loss, logit_scale, logit_softcap}};
  auto results = call_forward(hidden, weight, targets, bias, class_weight, token_weight,
                              at::IntArrayRef(settings.choices), at::ArrayRef<double>(settings.numbers),
                              std::array<bool, 3>{}, 0.0);
  return {std::get<0>(results), std::get<5>(results)};
}

TORCH_LIBRARY(lmhead, library) {
  const std::string rest =
      "Tensor? bias=None, Tensor? class_weight=None, Tensor? token_weight=None, str reduction='mean', "
      "int ignore_index=-100, float label_smoothing=0.0, float z_loss=0.0, float logit_scale=1.0, "
      "float logit_softcap=0.0";
  const std::string inputs =
      "Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? class_weight, Tensor? token_weight, ";
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  define("linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, *, " + rest +
         ", str mode='auto') -> Tensor");
  define("filtered_linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, float threshold, *, " + rest +
         ") -> (Tensor, Tensor)");
  define("_linear_cross_entropy_forward(" + inputs +
         "int[] choices, float[] numbers, bool[3] wanted, float filter_threshold) -> "
         "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  define("_linear_cross_entropy_backward(Tensor upstream, " + inputs +
         "Tensor row_sums, int[] choices, float[] numbers, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  library.impl("linear_cross_entropy", loss_kernel);
  library.impl("filtered_linear_cross_entropy", filtered_loss_kernel);
  library.impl("_linear_cross_entropy_forward", forward_kernel);
  library.impl("_linear_cross_entropy_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, Meta, library) {
  library.impl("linear_cross_entropy", loss_kernel);  // which reaches the meta kernel of the private operation
  library.impl("filtered_linear_cross_entropy", filtered_loss_kernel);
  library.impl("_linear_cross_entropy_forward", forward_meta);
  library.impl("_linear_cross_entropy_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(lmhead, Autograd, library) {
  library.impl("linear_cross_entropy", autograd_kernel);
  library.impl("filtered_linear_cross_entropy", filtered_autograd_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCPU, library) { library.impl("linear_cross_entropy", autocast_kernel); }
TORCH_LIBRARY_IMPL(lmhead, AutocastCUDA, library) { library.impl("linear_cross_entropy", autocast_kernel); }

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options) {
  check_linear_cross_entropy(hidden, map, targets, options, kWho);
  static const auto operation = find_operation("lmhead::linear_cross_entropy", &loss_kernel);
  return operation.call(hidden, map.weight, targets, optional_of(map.bias), optional_of(options.class_weight),
                        optional_of(options.token_weight), reduction_name(options.reduction), options.ignore_index,
                        options.label_smoothing, options.z_loss, map.logit_scale, map.logit_softcap,
                        mode_name(options.mode));
}

FilteredCrossEntropy filtered_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                   const at::Tensor& targets, double threshold,
                                                   const LinearCrossEntropyOptions& options) {
  check_linear_cross_entropy(hidden, map, targets, options, kWho);
  static const auto operation = find_operation("lmhead::filtered_linear_cross_entropy", &filtered_loss_kernel);
  const auto [loss, report] =
      operation.call(hidden, map.weight, targets, threshold, optional_of(map.bias), optional_of(options.class_weight),
                     optional_of(options.token_weight), reduction_name(options.reduction), options.ignore_index,
                     options.label_smoothing, options.z_loss, map.logit_scale, map.logit_softcap);
  const double* numbers = report.const_data_ptr<double>();
  return {loss, {static_cast<std::int64_t>(numbers[0]), static_cast<std::int64_t>(numbers[1]), numbers[2]}};
}

at::Tensor frequency_order(const at::Tensor& counts) {
  require(counts.dim() == 1, "frequency_order", "counts must be [V], got ", counts.sizes());
  return at::argsort(counts, /*stable=*/true, /*dim=*/0, /*descending=*/true);
}

}  // namespace lmhead
