// RMSNorm, SwiGLU and rotary embedding as differentiable CPU kernels over the row operations.
#include "lmhead/kernels/block_operations.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <type_traits>

#include "lmhead/base/error.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/readable_tensor.h"
#include "lmhead/kernels/threads.h"
#include "lmhead/kernels/tile_sizes.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using vector::Bfloat16;

template <class T>
constexpr at::ScalarType kScalarType = std::is_same_v<T, Bfloat16> ? at::kBFloat16
                                       : std::is_same_v<T, double> ? at::kDouble
                                                                   : at::kFloat;
template <class T>
using WideOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
const T* values(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_values(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <class T>
const auto& block_kernels() {
  const vector::RowKernels& all = vector::row_kernels();
  if constexpr (std::is_same_v<T, double>) return all.block_double;
  else if constexpr (std::is_same_v<T, Bfloat16>) return all.block_bfloat16;
  else return all.block_float;
}
template <class In, class Out>
const auto& norm_kernels() {
  const vector::RowKernels& all = vector::row_kernels();
  if constexpr (std::is_same_v<In, double>) return all.norm_double;
  else if constexpr (std::is_same_v<In, float> && std::is_same_v<Out, float>) return all.norm_float;
  else if constexpr (std::is_same_v<In, float>) return all.norm_float_bfloat16;
  else if constexpr (std::is_same_v<Out, float>) return all.norm_bfloat16_float;
  else return all.norm_bfloat16;
}

/// Calls `work(T{})` for the stored type.
template <class Work>
void with_type(at::ScalarType type, const Work& work) {
  if (type == at::kDouble) work(double{});
  else if (type == at::kBFloat16) work(Bfloat16{});
  else work(float{});
}
/// The same for the pairs that the norm has kernels for: float64 goes with itself only.
template <class Work>
void with_types(at::ScalarType in, at::ScalarType out, const Work& work) {
  if (in == at::kDouble) work(double{}, double{});
  else if (in == at::kBFloat16 && out == at::kBFloat16) work(Bfloat16{}, Bfloat16{});
  else if (in == at::kBFloat16) work(Bfloat16{}, float{});
  else if (out == at::kBFloat16) work(float{}, Bfloat16{});
  else work(float{}, float{});
}

bool has_kernel(const at::Tensor& tensor) { return is_readable(tensor) && has_kernel_type(tensor); }

std::int64_t rows_per_thread(std::int64_t width) {
  return std::max<std::int64_t>(1, tile_sizes::kElementsPerThread / std::max<std::int64_t>(1, width));
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given_input, const at::Tensor& weight,
                            double eps, at::ScalarType type) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor input = given_input.contiguous();
    const at::ScalarType wide = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor gain = weight.to(wide).contiguous();
    const std::int64_t width = input.size(-1), rows = width == 0 ? 0 : input.numel() / width;
    const at::Tensor output = at::empty(input.sizes(), input.options().dtype(type));
    const at::Tensor inverse = at::empty({rows}, input.options().dtype(wide));
    with_types(input.scalar_type(), type, [&](auto in, auto out) {
      using In = decltype(in);
      using Out = decltype(out);
      using Wide = WideOf<In>;
      const auto forward = norm_kernels<In, Out>().forward;
      const In* from = values<In>(input);
      const Wide* gains = values<Wide>(gain);
      Out* to = mutable_values<Out>(output);
      Wide* inverses = mutable_values<Wide>(inverse);
      at::parallel_for(0, rows, rows_per_thread(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
          inverses[row] = forward(from + row * width, gains, width, eps, to + row * width);
      });
    });
    context->save_for_backward({given_input, weight, inverse});
    context->saved_data["eps"] = eps;
    context->saved_data["type"] = static_cast<std::int64_t>(type);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstreams) {
    const auto saved = context->get_saved_variables();
    if (!upstreams[0].defined()) return variable_list(4);
    const auto plain = [eps = context->saved_data["eps"].toDouble(),
                        type = static_cast<at::ScalarType>(context->saved_data["type"].toInt())](
                           const variable_list& inputs) -> variable_list {
      return {plain_rms_norm(inputs[0], inputs[1], eps, type)};
    };
    // Under create_graph every gradient that can be asked for later is there.
    const auto wants = [&](std::size_t index) {
      return at::GradMode::is_enabled() ? saved[index].requires_grad() : context->needs_input_grad(index);
    };
    variable_list gradients =
        differentiable_gradients(plain, {saved[0], saved[1]}, {upstreams[0]}, [&]() -> variable_list {
          at::Tensor d_input, d_weight;
          const at::Tensor input = saved[0].contiguous(), d_output = upstreams[0].contiguous(), inverse = saved[2];
          const at::Tensor gain = saved[1].to(inverse.scalar_type()).contiguous();
          const std::int64_t width = input.size(-1), rows = inverse.size(0);
          if (wants(0)) d_input = at::empty_like(input);
          // One partial sum a thread, added up in the order of the threads: the same bits for the same thread count.
          at::Tensor sums;
          if (wants(1)) sums = at::zeros({at::get_num_threads(), width}, inverse.options());
          with_types(input.scalar_type(), d_output.scalar_type(), [&](auto in, auto out) {
            using In = decltype(in);
            using Out = decltype(out);
            using Wide = WideOf<In>;
            const auto backward = norm_kernels<In, Out>().backward;
            const Out* upstream = values<Out>(d_output);
            const In* from = values<In>(input);
            const Wide *gains = values<Wide>(gain), *inverses = values<Wide>(inverse);
            In* to = d_input.defined() ? mutable_values<In>(d_input) : nullptr;
            at::parallel_for(0, rows, rows_per_thread(width), [&](std::int64_t begin, std::int64_t end) {
              Wide* sum = sums.defined() ? mutable_values<Wide>(sums) + at::get_thread_num() * width : nullptr;
              for (std::int64_t row = begin; row < end; ++row)
                backward(upstream + row * width, from + row * width, gains, inverses[row], width,
                         to ? to + row * width : nullptr, sum);
            });
          });
          if (sums.defined()) d_weight = sums.sum(0).to(saved[1].scalar_type());
          return {d_input, d_weight};
        });
    gradients.resize(4);
    return gradients;
  }
};

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor gate_up = given.contiguous();
    const std::int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
    const at::Tensor output = at::empty({rows, width}, gate_up.options());
    with_type(gate_up.scalar_type(), [&](auto type) {
      using T = decltype(type);
      const auto forward = block_kernels<T>().swiglu;
      const T* from = values<T>(gate_up);
      T* to = mutable_values<T>(output);
      at::parallel_for(0, rows, rows_per_thread(width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T* gate = from + row * 2 * width;
          forward(gate, gate + width, width, to + row * width);
        }
      });
    });
    context->save_for_backward({given});
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstreams) {
    const at::Tensor given = context->get_saved_variables()[0];
    if (!upstreams[0].defined()) return variable_list(1);
    const auto plain = [](const variable_list& inputs) -> variable_list { return {plain_swiglu(inputs[0])}; };
    return differentiable_gradients(plain, {given}, {upstreams[0]}, [&]() -> variable_list {
      const at::Tensor gate_up = given.contiguous(), d_output = upstreams[0].contiguous();
      const std::int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
      const at::Tensor d_gate_up = at::empty_like(gate_up);
      with_type(gate_up.scalar_type(), [&](auto type) {
        using T = decltype(type);
        const auto backward = block_kernels<T>().swiglu_backward;
        const T *from = values<T>(gate_up), *upstream = values<T>(d_output);
        T* to = mutable_values<T>(d_gate_up);
        at::parallel_for(0, rows, rows_per_thread(width), [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            const T* gate = from + row * 2 * width;
            T* d_gate = to + row * 2 * width;
            backward(upstream + row * width, gate, gate + width, width, d_gate, d_gate + width);
          }
        });
      });
      return {d_gate_up};
    });
  }
};

/// Rotates by the angle (direction 1) or back (-1); what is not rotated is copied.
at::Tensor rotate(const at::Tensor& given, const at::Tensor& cosine, const at::Tensor& sine, std::int64_t heads,
                  double direction) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const at::Tensor input = given.contiguous();
  const std::int64_t tokens = input.size(0) * input.size(1), length = input.size(1), all_heads = input.size(2);
  const std::int64_t width = input.size(3), half = cosine.size(1);
  const at::Tensor output = at::empty_like(input);
  with_type(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using Wide = WideOf<T>;
    const at::Tensor c = cosine.to(kScalarType<Wide>).contiguous(), s = sine.to(kScalarType<Wide>).contiguous();
    const Wide *cosines = values<Wide>(c), *sines = values<Wide>(s);
    const T* from_first = values<T>(input);
    T* to_first = mutable_values<T>(output);
    const auto& kernels = block_kernels<T>();
    at::parallel_for(0, tokens, rows_per_thread(all_heads * width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t token = begin; token < end; ++token) {
        const std::int64_t position = token % length;
        const T* from = from_first + token * all_heads * width;
        T* to = to_first + token * all_heads * width;
        kernels.rotate(from, cosines + position * half, sines + position * half, direction, half, heads, width, to);
        std::copy(from + heads * width, from + all_heads * width, to + heads * width);
      }
    });
  });
  return output;
}

struct RotaryFunction : torch::autograd::Function<RotaryFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& projected, const at::Tensor& cosine,
                            const at::Tensor& sine, std::int64_t heads) {
    context->save_for_backward({cosine, sine});
    context->saved_data["heads"] = heads;
    return rotate(projected, cosine, sine, heads, 1);
  }
  static variable_list backward(AutogradContext* context, const variable_list& upstreams) {
    const auto saved = context->get_saved_variables();
    if (!upstreams[0].defined()) return variable_list(4);
    // The operation is linear, so unlike the others it may be differentiated any number of times; backwards, the
    // rotation is undone.
    const at::Tensor d_projected =
        apply(upstreams[0], saved[0], at::Tensor(-saved[1]), context->saved_data["heads"].toInt());
    return {d_projected, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double eps, at::ScalarType type) {
  require(input.dim() >= 1 && weight.dim() == 1 && weight.size(0) == input.size(-1), "rms_norm",
          "weight must be [D] for input [..., D], got ", weight.sizes(), " for ", input.sizes());
  const bool is_double = input.scalar_type() == at::kDouble;
  const bool pair_known = is_double ? type == at::kDouble : type == at::kFloat || type == at::kBFloat16;
  if (!has_kernel(input) || !has_kernel(weight) || !pair_known || needs_plain_derivatives({input, weight}))
    return plain_rms_norm(input, weight, eps, type);
  return RmsNormFunction::apply(input, weight, eps, type);
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  require(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0, "swiglu", "gate_up must be [N, 2 F], got ", gate_up.sizes());
  const bool plain = !has_kernel(gate_up) || needs_plain_derivatives({gate_up});
  return plain ? plain_swiglu(gate_up) : SwigluFunction::apply(gate_up);
}

at::Tensor rotary(const at::Tensor& projected, const at::Tensor& cosine, const at::Tensor& sine, std::int64_t heads) {
  require(projected.dim() == 4 && heads >= 0 && heads <= projected.size(2), "rotary",
          "projected must be [B, T, heads, head_dim] with at least ", heads, " heads, got ", projected.sizes());
  require(cosine.dim() == 2 && cosine.sizes() == sine.sizes() && cosine.size(0) == projected.size(1) &&
              2 * cosine.size(1) <= projected.size(3),
          "rotary", "cosine and sine must be [", projected.size(1), ", at most ", projected.size(3) / 2, "], got ",
          cosine.sizes(), " and ", sine.sizes());
  const bool plain = !has_kernel(projected) || cosine.requires_grad() || sine.requires_grad() ||
                     needs_plain_derivatives({projected, cosine, sine});
  return plain ? plain_rotary(projected, cosine, sine, heads) : RotaryFunction::apply(projected, cosine, sine, heads);
}

}  // namespace lmhead
