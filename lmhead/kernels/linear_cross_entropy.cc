// linear_cross_entropy as differentiable dispatcher operations, so that C++, Python and torch.compile run the same
// code.
//
//   lmhead::linear_cross_entropy            what everybody calls; differentiable
//   lmhead::filtered_linear_cross_entropy   the same with the filter, and its report
//   lmhead::linear_cross_entropy_with_statistics   the same with what its pass knows of every token
#include "lmhead/kernels/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/argsort.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "lmhead/base/error.h"
#include "lmhead/kernels/cross_entropy_function.h"
#include "lmhead/kernels/cross_entropy_operations.h"
#include "lmhead/kernels/cross_entropy_rows.h"
#include "lmhead/kernels/find_operation.h"
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
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1, who, "label_smoothing must lie in [0, 1], got ",
          options.label_smoothing);
  require(map.logit_softcap >= 0, who, "logit_softcap must be at least 0, got ", map.logit_softcap);
}

namespace {

constexpr const char* kWho = "linear_cross_entropy";

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

CrossEntropySettings settings_of(Reduction reduction, std::int64_t ignore_index, double label_smoothing, double z_loss,
                                 double logit_scale, double logit_softcap) {
  return {{static_cast<std::int64_t>(reduction), ignore_index}, {label_smoothing, z_loss, logit_scale, logit_softcap}};
}

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

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
  const auto settings = settings_of(how, ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap);
  return differentiable_cross_entropy({hidden, weight, targets, bias, class_weight, token_weight}, settings,
                                      forms_gradients_now(hidden, weight, how, mode_named(mode)), 0, false)
      .loss;
}

ThreeTensors statistics_autograd_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                        const OptionalTensor& bias, const OptionalTensor& class_weight,
                                        const OptionalTensor& token_weight, c10::string_view reduction,
                                        std::int64_t ignore_index, double label_smoothing, double z_loss,
                                        double logit_scale, double logit_softcap, c10::string_view mode) {
  const Reduction how = reduction_named(reduction);
  const auto settings = settings_of(how, ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap);
  const DifferentiableCrossEntropy results =
      differentiable_cross_entropy({hidden, weight, targets, bias, class_weight, token_weight}, settings,
                                   forms_gradients_now(hidden, weight, how, mode_named(mode)), 0, true);
  return {results.loss, results.scores, results.token_gradients};
}
ThreeTensors statistics_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                               const OptionalTensor& bias, const OptionalTensor& class_weight,
                               const OptionalTensor& token_weight, c10::string_view reduction,
                               std::int64_t ignore_index, double label_smoothing, double z_loss, double logit_scale,
                               double logit_softcap, c10::string_view mode) {
  mode_named(mode);
  const auto settings =
      settings_of(reduction_named(reduction), ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap);
  const CrossEntropyForwardResults results =
      call_cross_entropy_forward({hidden, weight, targets, bias, class_weight, token_weight}, settings, {}, 0, true);
  return {results.loss, results.scores, results.token_gradients};
}

at::Tensor loss_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                       const OptionalTensor& bias, const OptionalTensor& class_weight,
                       const OptionalTensor& token_weight, c10::string_view reduction, std::int64_t ignore_index,
                       double label_smoothing, double z_loss, double logit_scale, double logit_softcap,
                       c10::string_view mode) {
  mode_named(mode);
  const auto settings =
      settings_of(reduction_named(reduction), ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap);
  return call_cross_entropy_forward({hidden, weight, targets, bias, class_weight, token_weight}, settings, {}).loss;
}

/// Hidden features and weight in the type of autocast, and autocast off while `call(hidden, weight)` runs.
template <class Call>
auto in_autocast_type(const at::Tensor& hidden, const at::Tensor& weight, const Call& call) {
  const auto device = hidden.device().type();
  c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const auto type = at::autocast::get_autocast_dtype(device);
  return call(at::autocast::cached_cast(type, hidden, device), at::autocast::cached_cast(type, weight, device));
}

at::Tensor autocast_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                           const OptionalTensor& bias, const OptionalTensor& class_weight,
                           const OptionalTensor& token_weight, c10::string_view reduction, std::int64_t ignore_index,
                           double label_smoothing, double z_loss, double logit_scale, double logit_softcap,
                           c10::string_view mode) {
  static const auto operation = find_operation("lmhead::linear_cross_entropy", &loss_kernel);
  return in_autocast_type(hidden, weight, [&](const at::Tensor& features, const at::Tensor& matrix) {
    return operation.call(features, matrix, targets, bias, class_weight, token_weight, reduction, ignore_index,
                          label_smoothing, z_loss, logit_scale, logit_softcap, mode);
  });
}
ThreeTensors statistics_autocast_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                        const OptionalTensor& bias, const OptionalTensor& class_weight,
                                        const OptionalTensor& token_weight, c10::string_view reduction,
                                        std::int64_t ignore_index, double label_smoothing, double z_loss,
                                        double logit_scale, double logit_softcap, c10::string_view mode) {
  static const auto operation = find_operation("lmhead::linear_cross_entropy_with_statistics", &statistics_kernel);
  return in_autocast_type(hidden, weight, [&](const at::Tensor& features, const at::Tensor& matrix) {
    return operation.call(features, matrix, targets, bias, class_weight, token_weight, reduction, ignore_index,
                          label_smoothing, z_loss, logit_scale, logit_softcap, mode);
  });
}

TwoTensors filtered_autograd_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                    double threshold, const OptionalTensor& bias, const OptionalTensor& class_weight,
                                    const OptionalTensor& token_weight, c10::string_view reduction,
                                    std::int64_t ignore_index, double label_smoothing, double z_loss,
                                    double logit_scale, double logit_softcap) {
  const Reduction how = reduction_named(reduction);
  require(how != Reduction::kNone, kWho, "the filter needs reduction 'mean' or 'sum', got 'none'");
  require(threshold >= 0, kWho, "threshold must be at least 0, got ", threshold);
  const auto settings = settings_of(how, ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap);
  const DifferentiableCrossEntropy results = differentiable_cross_entropy(
      {hidden, weight, targets, bias, class_weight, token_weight}, settings, true, threshold, false);
  return {results.loss, results.filter};
}
TwoTensors filtered_loss_kernel(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                double threshold, const OptionalTensor& bias, const OptionalTensor& class_weight,
                                const OptionalTensor& token_weight, c10::string_view reduction,
                                std::int64_t ignore_index, double label_smoothing, double z_loss, double logit_scale,
                                double logit_softcap) {
  const auto settings =
      settings_of(reduction_named(reduction), ignore_index, label_smoothing, z_loss, logit_scale, logit_softcap);
  const CrossEntropyForwardResults results =
      call_cross_entropy_forward({hidden, weight, targets, bias, class_weight, token_weight}, settings, {});
  return {results.loss, results.filter};
}

TORCH_LIBRARY(lmhead, library) {
  const std::string rest =
      "Tensor? bias=None, Tensor? class_weight=None, Tensor? token_weight=None, str reduction='mean', "
      "int ignore_index=-100, float label_smoothing=0.0, float z_loss=0.0, float logit_scale=1.0, "
      "float logit_softcap=0.0";
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  define("linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, *, " + rest +
         ", str mode='auto') -> Tensor");
  define("linear_cross_entropy_with_statistics(Tensor hidden, Tensor weight, Tensor targets, *, " + rest +
         ", str mode='auto') -> (Tensor, Tensor, Tensor)");
  define("filtered_linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, float threshold, *, " + rest +
         ") -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  library.impl("linear_cross_entropy", loss_kernel);
  library.impl("linear_cross_entropy_with_statistics", statistics_kernel);
  library.impl("filtered_linear_cross_entropy", filtered_loss_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, Meta, library) {
  library.impl("linear_cross_entropy", loss_kernel);  // which reaches the meta kernel of the private operation
  library.impl("linear_cross_entropy_with_statistics", statistics_kernel);
  library.impl("filtered_linear_cross_entropy", filtered_loss_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, Autograd, library) {
  library.impl("linear_cross_entropy", autograd_kernel);
  library.impl("linear_cross_entropy_with_statistics", statistics_autograd_kernel);
  library.impl("filtered_linear_cross_entropy", filtered_autograd_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCPU, library) {
  library.impl("linear_cross_entropy", autocast_kernel);
  library.impl("linear_cross_entropy_with_statistics", statistics_autocast_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCUDA, library) {
  library.impl("linear_cross_entropy", autocast_kernel);
  library.impl("linear_cross_entropy_with_statistics", statistics_autocast_kernel);
}

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

CrossEntropyWithStatistics linear_cross_entropy_with_statistics(const at::Tensor& hidden, const LinearMap& map,
                                                                const at::Tensor& targets,
                                                                const LinearCrossEntropyOptions& options) {
  check_linear_cross_entropy(hidden, map, targets, options, kWho);
  static const auto operation = find_operation("lmhead::linear_cross_entropy_with_statistics", &statistics_kernel);
  const auto [loss, scores, token_gradients] = operation.call(
      hidden, map.weight, targets, optional_of(map.bias), optional_of(options.class_weight),
      optional_of(options.token_weight), reduction_name(options.reduction), options.ignore_index,
      options.label_smoothing, options.z_loss, map.logit_scale, map.logit_softcap, mode_name(options.mode));
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
