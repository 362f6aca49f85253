// linear_distillation as a differentiable dispatcher operation, lmhead::linear_distillation.
#include "lmhead/kernels/linear_distillation.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/autocast_type.h"
#include "lmhead/kernels/cross_entropy_function.h"
#include "lmhead/kernels/distillation_pass.h"
#include "lmhead/kernels/find_operation.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/plain_logits.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_distillation";
using Arguments = DistillationArguments;
using Tensors3 = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Tensors4 = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Wanted = std::array<bool, 3>;
using torch::autograd::variable_list;

void check_head(const at::Tensor& hidden, const LinearMap& map, const std::string& whose) {
  require(hidden.dim() == 2 && at::isFloatingType(hidden.scalar_type()), kWho, whose,
          "hidden must be a floating [N, D], got ", hidden.scalar_type(), " ", hidden.sizes());
  require(map.weight.dim() == 2 && map.weight.size(1) == hidden.size(1) && map.weight.size(0) > 0 &&
              map.weight.scalar_type() == hidden.scalar_type(),
          kWho, whose, "weight must be ", hidden.scalar_type(), " [V, ", hidden.size(1), "], got ",
          map.weight.scalar_type(), " ", map.weight.sizes());
  require(!map.bias.defined() || (map.bias.dim() == 1 && map.bias.size(0) == map.weight.size(0)), kWho, whose,
          "bias must be [", map.weight.size(0), "], got ", map.bias.sizes());
  check_logit_transform(map.transform, kWho);
}

void check(const Arguments& arguments) {
  const DistillationOptions& options = arguments.options;
  check_head(arguments.hidden, arguments.map, "");
  check_head(arguments.teacher_hidden, arguments.teacher, "teacher_");
  const std::int64_t size = arguments.hidden.size(0);
  require(arguments.teacher_hidden.size(0) == size && arguments.teacher.weight.size(0) == arguments.map.weight.size(0),
          kWho, "teacher_hidden must have ", size, " rows and teacher_weight ", arguments.map.weight.size(0), ", got ",
          arguments.teacher_hidden.size(0), " and ", arguments.teacher.weight.size(0));
  require(!options.token_weight.defined() || (options.token_weight.dim() == 1 && options.token_weight.size(0) == size),
          kWho, "token_weight must be [", size, "], got ", options.token_weight.sizes());
  require(options.temperature > 0, kWho, "temperature must be positive, got ", options.temperature);
  require(options.divergence != Divergence::kJsd || (options.beta > 0 && options.beta < 1), kWho,
          "beta must lie between 0 and 1, got ", options.beta);
}

constexpr const char* kDivergences[] = {"forward_kl", "reverse_kl", "jsd"};
Divergence divergence_named(c10::string_view name) {
  const auto* found = std::ranges::find(kDivergences, name);
  require(found != std::end(kDivergences), kWho, "divergence must be '", kDivergences[0], "', '", kDivergences[1],
          "' or '", kDivergences[2], "', got '", name, "'");
  return static_cast<Divergence>(found - kDivergences);
}

// How the arguments travel: tensors, two choices, numbers.

std::vector<at::Tensor> tensors_of(const Arguments& arguments) {
  return {arguments.hidden,
          arguments.map.weight,
          arguments.map.bias,
          arguments.teacher_hidden,
          arguments.teacher.weight,
          arguments.teacher.bias,
          arguments.options.token_weight};
}
std::vector<std::int64_t> choices_of(const Arguments& arguments) {
  return {static_cast<std::int64_t>(arguments.options.divergence),
          static_cast<std::int64_t>(arguments.options.reduction)};
}
std::vector<double> numbers_of(const Arguments& arguments) {
  std::vector<double> numbers{arguments.options.beta, arguments.options.temperature};
  for (const LogitTransform& transform : {arguments.map.transform, arguments.teacher.transform})
    for (double number : lmhead::numbers_of(transform)) numbers.push_back(number);
  return numbers;
}
Arguments arguments_of(const std::vector<at::Tensor>& tensors, at::IntArrayRef choices, at::ArrayRef<double> numbers) {
  return {
      tensors[0],
      {tensors[1], tensors[2], transform_of(numbers.slice(2, 6))},
      tensors[3],
      {tensors[4], tensors[5], transform_of(numbers.slice(8, 6))},
      {static_cast<Divergence>(choices[0]), numbers[0], numbers[1], tensors[6], static_cast<Reduction>(choices[1])}};
}

double divisor_of(const Arguments& arguments) {
  return arguments.options.reduction == Reduction::kMean ? static_cast<double>(arguments.hidden.size(0)) : 1;
}

Tensors4 forward_kernel(const at::Tensor& hidden, const at::Tensor& weight, const OptionalTensor& bias,
                        const at::Tensor& teacher_hidden, const at::Tensor& teacher_weight,
                        const OptionalTensor& teacher_bias, const OptionalTensor& token_weight, at::IntArrayRef choices,
                        at::ArrayRef<double> numbers, Wanted wanted) {
  const Arguments arguments = arguments_of({hidden, weight, value_or_undefined(bias), teacher_hidden, teacher_weight,
                                            value_or_undefined(teacher_bias), value_or_undefined(token_weight)},
                                           choices, numbers);
  check(arguments);
  const at::Tensor upstream =
      at::empty({}, hidden.options().dtype(loss_type(hidden.scalar_type()))).fill_(1 / divisor_of(arguments));
  const auto [losses, gradients] = distill(arguments, upstream, wanted);
  return {reduced(losses, arguments.options.reduction), or_nothing(gradients[0], hidden),
          or_nothing(gradients[1], weight), or_nothing(gradients[2], weight)};
}
Tensors4 forward_meta(const at::Tensor& hidden, const at::Tensor& weight, const OptionalTensor& bias, const at::Tensor&,
                      const at::Tensor&, const OptionalTensor&, const OptionalTensor&, at::IntArrayRef choices,
                      at::ArrayRef<double>, Wanted wanted) {
  const auto options = hidden.options().dtype(loss_type(hidden.scalar_type()));
  const bool per_token = static_cast<Reduction>(choices[1]) == Reduction::kNone;
  return {per_token ? at::empty_symint({hidden.sym_size(0)}, options) : at::empty({}, options),
          like_or_nothing(wanted[0], hidden), like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight)};
}
Tensors4 call_forward(const Arguments& arguments, Wanted wanted) {
  static const auto operation = find_operation("lmhead::_linear_distillation_forward", &forward_kernel);
  return operation.call(arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
                        arguments.teacher_hidden, arguments.teacher.weight, optional_of(arguments.teacher.bias),
                        optional_of(arguments.options.token_weight), choices_of(arguments), numbers_of(arguments),
                        wanted);
}

Tensors3 backward_kernel(const at::Tensor& upstream, const at::Tensor& hidden, const at::Tensor& weight,
                         const OptionalTensor& bias, const at::Tensor& teacher_hidden, const at::Tensor& teacher_weight,
                         const OptionalTensor& teacher_bias, const OptionalTensor& token_weight,
                         at::IntArrayRef choices, at::ArrayRef<double> numbers, Wanted wanted) {
  const Arguments arguments = arguments_of({hidden, weight, value_or_undefined(bias), teacher_hidden, teacher_weight,
                                            value_or_undefined(teacher_bias), value_or_undefined(token_weight)},
                                           choices, numbers);
  const auto gradients = distill(arguments, upstream / divisor_of(arguments), wanted).gradients;
  return {or_nothing(gradients[0], hidden), or_nothing(gradients[1], weight), or_nothing(gradients[2], weight)};
}
Tensors3 backward_meta(const at::Tensor&, const at::Tensor& hidden, const at::Tensor& weight,
                       const OptionalTensor& bias, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                       const OptionalTensor&, at::IntArrayRef, at::ArrayRef<double>, Wanted wanted) {
  return {like_or_nothing(wanted[0], hidden), like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight)};
}
variable_list call_backward(const at::Tensor& upstream, const Arguments& arguments, Wanted wanted) {
  static const auto operation = find_operation("lmhead::_linear_distillation_backward", &backward_kernel);
  const auto [d_hidden, d_weight, d_bias] =
      operation.call(upstream, arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
                     arguments.teacher_hidden, arguments.teacher.weight, optional_of(arguments.teacher.bias),
                     optional_of(arguments.options.token_weight), choices_of(arguments), numbers_of(arguments), wanted);
  return {wanted[0] ? d_hidden : at::Tensor(), wanted[1] ? d_weight : at::Tensor(), wanted[2] ? d_bias : at::Tensor()};
}

bool wants(const at::Tensor& tensor) { return needs_derivatives({tensor}); }

struct LinearDistillationFunction : torch::autograd::Function<LinearDistillationFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const OptionalTensor& bias, const Arguments& arguments,
                            Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView guard;
    // Not for float16, where the factor of loss scaling must come before anything is rounded.
    const bool now = arguments.options.reduction != Reduction::kNone && hidden.scalar_type() != at::kHalf;
    const auto [loss, d_hidden, d_weight, d_bias] = call_forward(arguments, now ? wanted : Wanted{});
    variable_list saved = tensors_of(arguments);
    if (now) saved.insert(saved.end(), {d_hidden, d_weight, d_bias});
    context->save_for_backward(saved);
    context->saved_data["now"] = now;
    context->saved_data["wanted"] = std::vector<bool>(wanted.begin(), wanted.end());
    context->saved_data["choices"] = choices_of(arguments);
    context->saved_data["numbers"] = numbers_of(arguments);
    return loss;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    variable_list saved = context->get_saved_variables();
    const auto list = context->saved_data["wanted"].toBoolList();
    const Wanted wanted{list[0], list[1], list[2]};
    const auto choices = context->saved_data["choices"].toIntVector();
    const auto numbers = context->saved_data["numbers"].toDoubleVector();
    const Arguments arguments = arguments_of({saved.begin(), saved.begin() + 7}, choices, numbers);
    const at::Tensor& upstream = upstreams[0];
    variable_list results;
    if (at::GradMode::is_enabled() || needs_derivatives({upstream})) {
      const auto plain = [arguments](const variable_list& inputs) -> variable_list {
        return {plain_linear_distillation(inputs[0], {inputs[1], inputs[2], arguments.map.transform},
                                          arguments.teacher_hidden, arguments.teacher, arguments.options)};
      };
      results = differentiable_gradients(plain, {saved[0], saved[1], saved[2]}, {upstream},
                                         [&] { return call_backward(upstream, arguments, wanted); });
    } else {
      at::AutoDispatchBelowADInplaceOrView guard;
      if (context->saved_data["now"].toBool()) {
        for (int which = 0; which < 3; ++which)
          results.push_back(wanted[which] ? scaled_gradient(saved[7 + which], upstream) : at::Tensor());
      } else {
        results = call_backward(upstream, arguments, wanted);
      }
    }
    results.resize(5);
    return results;
  }
};

// The public operation.

using Kernel = at::Tensor (*)(const Arguments&);
template <Kernel kernel>
at::Tensor operation(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& teacher_hidden,
                     const at::Tensor& teacher_weight, const OptionalTensor& bias, const OptionalTensor& teacher_bias,
                     const OptionalTensor& token_weight, c10::string_view divergence, double beta, double temperature,
                     c10::string_view reduction, double logit_scale, double logit_softcap,
                     at::ArrayRef<double> sigmoid_cap, bool sigsoftmax, double teacher_logit_scale,
                     double teacher_logit_softcap) {
  return kernel(
      {hidden,
       {weight, value_or_undefined(bias), transform_of(logit_scale, logit_softcap, sigmoid_cap, sigsoftmax, kWho)},
       teacher_hidden,
       {teacher_weight, value_or_undefined(teacher_bias),
        transform_of(teacher_logit_scale, teacher_logit_softcap, {}, false, kWho)},
       {divergence_named(divergence), beta, temperature, value_or_undefined(token_weight),
        reduction_named(reduction, kWho)}});
}

at::Tensor loss_kernel(const Arguments& arguments) { return std::get<0>(call_forward(arguments, {})); }

at::Tensor call(const Arguments& arguments) {
  static const auto found = find_operation("lmhead::linear_distillation", &operation<loss_kernel>);
  const DistillationOptions& options = arguments.options;
  const LogitTransform &own = arguments.map.transform, &theirs = arguments.teacher.transform;
  return found.call(arguments.hidden, arguments.map.weight, arguments.teacher_hidden, arguments.teacher.weight,
                    optional_of(arguments.map.bias), optional_of(arguments.teacher.bias),
                    optional_of(options.token_weight), kDivergences[static_cast<int>(options.divergence)], options.beta,
                    options.temperature, reduction_name(options.reduction), own.scale, own.softcap, sigmoid_cap_of(own),
                    own.sigsoftmax, theirs.scale, theirs.softcap);
}

at::Tensor autograd_kernel(const Arguments& arguments) {
  const variable_list tensors = tensors_of(arguments);
  if (!needs_derivatives(tensors)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return call(arguments);
  }
  if (needs_plain_derivatives(tensors))
    return plain_linear_distillation(arguments.hidden, arguments.map, arguments.teacher_hidden, arguments.teacher,
                                     arguments.options);
  for (std::size_t index = 3; index < tensors.size(); ++index)
    require(!wants(tensors[index]), kWho, "the teacher and token_weight must not require gradients");
  return LinearDistillationFunction::apply(
      arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias), arguments,
      Wanted{wants(arguments.hidden), wants(arguments.map.weight), wants(arguments.map.bias)});
}

at::Tensor autocast_kernel(const Arguments& given) {
  return in_autocast_type(given, [](Arguments arguments) {
    const AutocastType cast(arguments.teacher_hidden);
    arguments.teacher_hidden = cast(arguments.teacher_hidden);
    arguments.teacher.weight = cast(arguments.teacher.weight);
    return call(arguments);
  });
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  const std::string inputs =
      "Tensor hidden, Tensor weight, Tensor? bias, Tensor teacher_hidden, Tensor teacher_weight, Tensor? teacher_bias, "
      "Tensor? token_weight, int[] choices, float[] numbers, bool[3] wanted";
  const std::string list =
      "(Tensor hidden, Tensor weight, Tensor teacher_hidden, Tensor teacher_weight, *, Tensor? bias=None, "
      "Tensor? teacher_bias=None, Tensor? token_weight=None, str divergence='forward_kl', float beta=0.5, "
      "float temperature=1.0, str reduction='mean', " +
      std::string(kTransformSchema) + ", float teacher_logit_scale=1.0, float teacher_logit_softcap=0.0) -> Tensor";
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  define("linear_distillation" + list);
  define("_linear_distillation_forward(" + inputs + ") -> (Tensor, Tensor, Tensor, Tensor)");
  define("_linear_distillation_backward(Tensor upstream, " + inputs + ") -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  library.impl("linear_distillation", operation<loss_kernel>);
  library.impl("_linear_distillation_forward", forward_kernel);
  library.impl("_linear_distillation_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, Meta, library) {
  library.impl("linear_distillation", operation<loss_kernel>);
  library.impl("_linear_distillation_forward", forward_meta);
  library.impl("_linear_distillation_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(lmhead, Autograd, library) {
  library.impl("linear_distillation", operation<autograd_kernel>);
  library.impl("_linear_distillation_forward", torch::autograd::autogradNotImplementedFallback());
  library.impl("_linear_distillation_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCPU, library) { library.impl("linear_distillation", operation<autocast_kernel>); }
TORCH_LIBRARY_IMPL(lmhead, AutocastCUDA, library) { library.impl("linear_distillation", operation<autocast_kernel>); }

}  // namespace

at::Tensor linear_distillation(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& teacher_hidden,
                               const LinearMap& teacher, const DistillationOptions& options) {
  const Arguments arguments{hidden, map, teacher_hidden, teacher, options};
  check(arguments);
  require(teacher.transform.sigmoid_cap.height == 0 && !teacher.transform.sigsoftmax, kWho,
          "the teacher's logits may be scaled and soft-capped only");
  return call(arguments);
}

at::Tensor plain_linear_distillation(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& teacher_hidden,
                                     const LinearMap& teacher, const DistillationOptions& options) {
  const at::Tensor logits = wide_linear_logits(hidden, map);
  const at::Tensor theirs = wide_linear_logits(teacher_hidden, teacher).to(logits.scalar_type());
  at::Tensor losses = divergences(logits, theirs, options);
  if (options.token_weight.defined()) losses = losses * options.token_weight.to(losses.scalar_type());
  return reduced(losses, options.reduction);
}

}  // namespace lmhead
