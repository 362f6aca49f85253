// linear_logsumexp as differentiable dispatcher operations.
//
//   lmhead::linear_logsumexp               what everybody calls; differentiable
//   lmhead::linear_logsumexp_and_entropy   the same with the entropy
//   lmhead::target_logits                  a composition of operations that ATen differentiates
#include "lmhead/kernels/linear_logsumexp.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "lmhead/base/error.h"
#include "lmhead/kernels/autocast_type.h"
#include "lmhead/kernels/find_operation.h"
#include "lmhead/kernels/logsumexp_pass.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/plain_logits.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_logsumexp";
using Arguments = LogsumexpArguments;
using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
using Tensors3 = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using torch::autograd::variable_list;

void check(const Arguments& arguments) {
  const at::Tensor &hidden = arguments.hidden, &weight = arguments.map.weight;
  require(hidden.defined() && hidden.dim() == 2 && at::isFloatingType(hidden.scalar_type()), kWho,
          "hidden must be a floating [M, D], got ", hidden.scalar_type(), " ", hidden.sizes());
  require(weight.defined() && weight.dim() == 2 && weight.size(1) == hidden.size(1) && weight.size(0) > 0, kWho,
          "weight must be [U, ", hidden.size(1), "], got ", weight.sizes());
  require(weight.scalar_type() == hidden.scalar_type() && weight.device() == hidden.device(), kWho, "weight must be ",
          hidden.scalar_type(), " on ", hidden.device(), " as hidden is, got ", weight.scalar_type(), " on ",
          weight.device());
  const auto check_row = [&](const at::Tensor& row, std::int64_t length, const char* name) {
    if (!row.defined()) return;
    require(row.dim() == 1 && row.size(0) == length && at::isFloatingType(row.scalar_type()) &&
                row.device() == hidden.device(),
            kWho, name, " must be a floating [", length, "] on ", hidden.device(), ", got ", row.scalar_type(), " ",
            row.sizes(), " on ", row.device());
  };
  check_row(arguments.map.bias, weight.size(0), "bias");
  check_row(arguments.temperature, hidden.size(0), "temperature");
  check_logit_transform(arguments.map.transform, kWho);
}

Arguments arguments_of(const at::Tensor& hidden, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& temperature, const LogitTransform& transform) {
  return {hidden, {weight, value_or_undefined(bias), transform}, value_or_undefined(temperature)};
}

// The private operations: sums forwards, gradients backwards.

at::Tensor forward_kernel(const at::Tensor& hidden, const at::Tensor& weight, const OptionalTensor& bias,
                          const OptionalTensor& temperature, at::ArrayRef<double> numbers, bool with_entropy) {
  const Arguments arguments = arguments_of(hidden, weight, bias, temperature, transform_of(numbers));
  check(arguments);
  return logsumexp_forward(arguments, with_entropy);
}
at::Tensor forward_meta(const at::Tensor& hidden, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                        at::ArrayRef<double>, bool) {
  return at::empty_symint({hidden.sym_size(0), 3}, hidden.options().dtype(at::kDouble));
}
at::Tensor call_forward(const Arguments& arguments, bool with_entropy) {
  static const auto operation = find_operation("lmhead::_linear_logsumexp_forward", &forward_kernel);
  return operation.call(arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
                        optional_of(arguments.temperature), numbers_of(arguments.map.transform), with_entropy);
}

Tensors3 backward_kernel(const at::Tensor& of_logsumexp, const OptionalTensor& of_entropy, const at::Tensor& hidden,
                         const at::Tensor& weight, const OptionalTensor& bias, const OptionalTensor& temperature,
                         const at::Tensor& row_sums, at::ArrayRef<double> numbers, std::array<bool, 3> wanted) {
  const auto [d_hidden, d_weight, d_bias] =
      logsumexp_backward(arguments_of(hidden, weight, bias, temperature, transform_of(numbers)), of_logsumexp,
                         value_or_undefined(of_entropy), row_sums, wanted);
  return {or_nothing(d_hidden, hidden), or_nothing(d_weight, weight), or_nothing(d_bias, weight)};
}
Tensors3 backward_meta(const at::Tensor&, const OptionalTensor&, const at::Tensor& hidden, const at::Tensor& weight,
                       const OptionalTensor& bias, const OptionalTensor&, const at::Tensor&, at::ArrayRef<double>,
                       std::array<bool, 3> wanted) {
  return {like_or_nothing(wanted[0], hidden), like_or_nothing(wanted[1], weight),
          wanted[2] ? like_or_nothing(true, *bias) : like_or_nothing(false, weight)};
}
variable_list call_backward(const at::Tensor& of_logsumexp, const at::Tensor& of_entropy, const Arguments& arguments,
                            const at::Tensor& row_sums, std::array<bool, 3> wanted) {
  static const auto operation = find_operation("lmhead::_linear_logsumexp_backward", &backward_kernel);
  const auto [d_hidden, d_weight, d_bias] = operation.call(
      of_logsumexp, optional_of(of_entropy), arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
      optional_of(arguments.temperature), row_sums, numbers_of(arguments.map.transform), wanted);
  return {wanted[0] ? d_hidden : at::Tensor(), wanted[1] ? d_weight : at::Tensor(), wanted[2] ? d_bias : at::Tensor()};
}

// What makes them differentiable.

bool wants(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

struct LinearLogsumexpFunction : torch::autograd::Function<LinearLogsumexpFunction> {
  static variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                               const at::Tensor& weight, const OptionalTensor& bias, const OptionalTensor& temperature,
                               const LogitTransform& transform, bool with_entropy) {
    at::AutoDispatchBelowADInplaceOrView guard;
    // The temperature's gradient is made of the entropy.
    const bool more = with_entropy || wants(value_or_undefined(temperature));
    const Arguments arguments = arguments_of(hidden, weight, bias, temperature, transform);
    const at::Tensor row_sums = call_forward(arguments, more);
    context->save_for_backward({hidden, weight, arguments.map.bias, arguments.temperature, row_sums});
    const TransformNumbers numbers = numbers_of(transform);
    context->saved_data["numbers"] = std::vector<double>(numbers.begin(), numbers.end());
    context->saved_data["with_entropy"] = with_entropy;
    context->set_materialize_grads(false);
    const at::ScalarType type = loss_type(hidden.scalar_type());
    variable_list results{row_sums.select(1, 1).to(type)};
    if (with_entropy) results.push_back(row_sums.select(1, 2).to(type));
    return results;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    const auto saved = context->get_saved_variables();
    const auto numbers = context->saved_data["numbers"].toDoubleVector();
    const bool with_entropy = context->saved_data["with_entropy"].toBool();
    const Arguments arguments{saved[0], {saved[1], saved[2], transform_of(numbers)}, saved[3]};
    const at::Tensor of_entropy = with_entropy ? upstreams[1] : at::Tensor();
    if (!upstreams[0].defined() && !of_entropy.defined()) return variable_list(6);
    const auto plain = [transform = arguments.map.transform,
                        with_entropy](const variable_list& inputs) -> variable_list {
      const auto results = plain_logsumexp_and_entropy(inputs[0], {inputs[1], inputs[2], transform}, inputs[3]);
      return with_entropy ? variable_list{results.logsumexp, results.entropy} : variable_list{results.logsumexp};
    };
    const auto fast = [&]() -> variable_list {
      const at::Tensor& row_sums = saved[4];
      const at::Tensor of_logsumexp = upstreams[0].defined() ? upstreams[0] : of_entropy * 0;
      variable_list gradients = call_backward(of_logsumexp, of_entropy, arguments, row_sums,
                                              {wants(saved[0]), wants(saved[1]), wants(saved[2])});
      const at::Tensor& temperature = arguments.temperature;
      gradients.emplace_back();
      if (wants(temperature)) {  // the mean logit under p is logsumexp - entropy
        const at::Tensor mean = row_sums.select(1, 1) - row_sums.select(1, 2);
        gradients[3] =
            (-of_logsumexp.to(at::kDouble) * mean / temperature.to(at::kDouble)).to(temperature.scalar_type());
      }
      return gradients;
    };
    variable_list given{upstreams[0]};
    if (with_entropy) given.push_back(of_entropy);
    variable_list gradients = differentiable_gradients(plain, {saved[0], saved[1], saved[2], saved[3]}, given, fast);
    gradients.resize(6);
    return gradients;
  }
};

/// The public operations take a list of arguments, functions here one struct.
template <class Result>
struct Listed {
  using Kernel = Result (*)(const Arguments&);
  template <Kernel kernel>
  static Result operation(const at::Tensor& hidden, const at::Tensor& weight, const OptionalTensor& bias,
                          const OptionalTensor& temperature, double logit_scale, double logit_softcap,
                          at::ArrayRef<double> sigmoid_cap, bool sigsoftmax) {
    return kernel(arguments_of(hidden, weight, bias, temperature,
                               transform_of(logit_scale, logit_softcap, sigmoid_cap, sigsoftmax, kWho)));
  }
  template <class Signature>
  static Result call(const c10::TypedOperatorHandle<Signature>& operation, const Arguments& arguments) {
    const LogitTransform& transform = arguments.map.transform;
    return operation.call(arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
                          optional_of(arguments.temperature), transform.scale, transform.softcap,
                          sigmoid_cap_of(transform), transform.sigsoftmax);
  }
};
using Logsumexp = Listed<at::Tensor>;
using WithEntropy = Listed<TwoTensors>;

at::Tensor logsumexp_kernel(const Arguments& arguments) {
  return call_forward(arguments, false).select(1, 1).to(loss_type(arguments.hidden.scalar_type()));
}
TwoTensors entropy_kernel(const Arguments& arguments) {
  const at::Tensor sums = call_forward(arguments, true).to(loss_type(arguments.hidden.scalar_type()));
  return {sums.select(1, 1).clone(), sums.select(1, 2).clone()};
}
at::Tensor call_logsumexp(const Arguments& arguments) {
  static const auto operation = find_operation("lmhead::linear_logsumexp", &Logsumexp::operation<logsumexp_kernel>);
  return Logsumexp::call(operation, arguments);
}
TwoTensors call_with_entropy(const Arguments& arguments) {
  static const auto operation =
      find_operation("lmhead::linear_logsumexp_and_entropy", &WithEntropy::operation<entropy_kernel>);
  return WithEntropy::call(operation, arguments);
}

enum class Derivatives { kNone, kPlain, kOwn };
Derivatives derivatives_of(const Arguments& arguments) {
  const variable_list inputs{arguments.hidden, arguments.map.weight, arguments.map.bias, arguments.temperature};
  if (!needs_derivatives(inputs)) return Derivatives::kNone;
  return needs_plain_derivatives(inputs) ? Derivatives::kPlain : Derivatives::kOwn;
}
variable_list apply(const Arguments& arguments, bool with_entropy) {
  return LinearLogsumexpFunction::apply(arguments.hidden, arguments.map.weight, optional_of(arguments.map.bias),
                                        optional_of(arguments.temperature), arguments.map.transform, with_entropy);
}
at::Tensor logsumexp_autograd(const Arguments& arguments) {
  switch (derivatives_of(arguments)) {
    case Derivatives::kPlain:
      return plain_logsumexp_and_entropy(arguments.hidden, arguments.map, arguments.temperature).logsumexp;
    case Derivatives::kOwn:
      return apply(arguments, false)[0];
    default:
      at::AutoDispatchBelowADInplaceOrView guard;
      return call_logsumexp(arguments);
  }
}
TwoTensors entropy_autograd(const Arguments& arguments) {
  switch (derivatives_of(arguments)) {
    case Derivatives::kPlain: {
      const auto results = plain_logsumexp_and_entropy(arguments.hidden, arguments.map, arguments.temperature);
      return {results.logsumexp, results.entropy};
    }
    case Derivatives::kOwn: {
      require(!wants(arguments.temperature) || !at::GradMode::is_enabled(), kWho,
              "temperature must not require a gradient where the entropy is asked for");
      const variable_list results = apply(arguments, true);
      return {results[0], results[1]};
    }
    default:
      at::AutoDispatchBelowADInplaceOrView guard;
      return call_with_entropy(arguments);
  }
}

at::Tensor logsumexp_autocast(const Arguments& arguments) { return in_autocast_type(arguments, call_logsumexp); }
TwoTensors entropy_autocast(const Arguments& arguments) { return in_autocast_type(arguments, call_with_entropy); }

template <Logsumexp::Kernel logsumexp, WithEntropy::Kernel with_entropy>
void implement(torch::Library& library) {
  library.impl("linear_logsumexp", Logsumexp::operation<logsumexp>);
  library.impl("linear_logsumexp_and_entropy", WithEntropy::operation<with_entropy>);
}

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  const std::string inputs = "Tensor hidden, Tensor weight, Tensor? bias, Tensor? temperature, ";
  const std::string list = "(Tensor hidden, Tensor weight, *, Tensor? bias=None, Tensor? temperature=None, " +
                           std::string(kTransformSchema) + ") -> ";
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  define("linear_logsumexp" + list + "Tensor");
  define("linear_logsumexp_and_entropy" + list + "(Tensor, Tensor)");
  define("_linear_logsumexp_forward(" + inputs + "float[] numbers, bool with_entropy) -> Tensor");
  define("_linear_logsumexp_backward(Tensor of_logsumexp, Tensor? of_entropy, " + inputs +
         "Tensor row_sums, float[] numbers, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(lmhead, CompositeExplicitAutograd, library) {
  implement<logsumexp_kernel, entropy_kernel>(library);
  library.impl("_linear_logsumexp_forward", forward_kernel);
  library.impl("_linear_logsumexp_backward", backward_kernel);
}
TORCH_LIBRARY_IMPL(lmhead, Meta, library) {
  implement<logsumexp_kernel, entropy_kernel>(library);
  library.impl("_linear_logsumexp_forward", forward_meta);
  library.impl("_linear_logsumexp_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(lmhead, Autograd, library) {
  implement<logsumexp_autograd, entropy_autograd>(library);
  library.impl("_linear_logsumexp_forward", torch::autograd::autogradNotImplementedFallback());
  library.impl("_linear_logsumexp_backward", torch::autograd::autogradNotImplementedFallback());
}
TORCH_LIBRARY_IMPL(lmhead, AutocastCPU, library) { implement<logsumexp_autocast, entropy_autocast>(library); }
TORCH_LIBRARY_IMPL(lmhead, AutocastCUDA, library) { implement<logsumexp_autocast, entropy_autocast>(library); }

}  // namespace

at::Tensor linear_logsumexp(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& temperature) {
  const Arguments arguments{hidden, map, temperature};
  check(arguments);
  return call_logsumexp(arguments);
}

LogsumexpAndEntropy linear_logsumexp_and_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                 const at::Tensor& temperature) {
  const Arguments arguments{hidden, map, temperature};
  check(arguments);
  const auto [logsumexp, entropy] = call_with_entropy(arguments);
  return {logsumexp, entropy};
}

LogsumexpAndEntropy plain_logsumexp_and_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                const at::Tensor& temperature) {
  at::Tensor logits = wide_linear_logits(hidden, map);
  if (temperature.defined()) logits = logits / temperature.to(logits.scalar_type()).unsqueeze(1);
  const at::Tensor log_p = at::log_softmax(logits, 1), p = log_p.exp();
  return {at::logsumexp(logits, 1), -(p * log_p.masked_fill(p.eq(0), 0)).sum(1)};
}

}  // namespace lmhead
