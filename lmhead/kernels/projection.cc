#include "lmhead/kernels/projection.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/row_major_product.h"
#include "lmhead/kernels/threads.h"
#include "lmhead/kernels/tile_products.h"
#include "lmhead/kernels/tile_sizes.h"

namespace lmhead {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Columns that a thread takes at least, and a multiple of which it takes: a cache line each.
constexpr std::int64_t kColumns = 64;
/// And that are turned at once, at most: a copy of a whole matrix would count where a model hardly fits into memory.
constexpr std::int64_t kTurnedAtOnce = 256;

using tile_sizes::divide_up;

bool is_float_matrix(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
         tensor.dim() == 2 && (tensor.is_contiguous() || tensor.t().is_contiguous());
}

/// `matrix` [rows, columns], which is the transpose of something contiguous, row by row.
at::Tensor turned(const at::Tensor& matrix) {
  const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
  const at::Tensor result = at::empty({rows, columns}, matrix.options());
  const float* from = matrix.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  const std::int64_t each = std::max<std::int64_t>(16, tile_sizes::kElementsPerThread / rows);
  at::parallel_for(0, columns, each, [&](std::int64_t begin, std::int64_t end) {
    turn(from + begin * rows, end - begin, rows, rows, to + begin, columns);
  });
  return result;
}

/// left [m, k] right [k, n], both row by row, into [m, n].
at::Tensor row_by_row(const at::Tensor& left, const at::Tensor& right) {
  const std::int64_t m = left.size(0), k = left.size(1), n = right.size(1);
  const at::Tensor result = at::empty({m, n}, left.options());
  const float *a = left.const_data_ptr<float>(), *b = right.const_data_ptr<float>();
  float* c = result.mutable_data_ptr<float>();
  const std::int64_t threads = at::get_num_threads();
  const std::int64_t shares = m * n * k / threads >= tile_sizes::kElementsPerThread ? threads : 1;
  if (m >= n) {
    const std::int64_t rows = std::max<std::int64_t>(divide_up(m, shares), 16);
    at::parallel_for(0, m, rows, [&](std::int64_t begin, std::int64_t end) {
      row_major_product(end - begin, n, k, a + begin * k, k, b, n, c + begin * n, n, false);
    });
  } else {
    const std::int64_t groups = divide_up(n, kColumns);
    at::parallel_for(0, groups, divide_up(groups, shares), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * kColumns, last = std::min(end * kColumns, n);
      row_major_product(m, last - first, k, a, k, b + first, n, c + first, n, false);
    });
  }
  return result;
}

/// left [m, k], row by row, times the transpose of `right` [n, k], of which a thread turns some rows at a time.
at::Tensor row_by_turned(const at::Tensor& left, const at::Tensor& right) {
  const std::int64_t m = left.size(0), k = left.size(1), n = right.size(0);
  const at::Tensor result = at::empty({m, n}, left.options());
  const float *a = left.const_data_ptr<float>(), *b = right.const_data_ptr<float>();
  float* c = result.mutable_data_ptr<float>();
  const std::int64_t share = divide_up(n, at::get_num_threads());
  const std::int64_t columns = std::min(kTurnedAtOnce, divide_up(share, kColumns) * kColumns);
  at::parallel_for(0, divide_up(n, columns), 1, [&](std::int64_t begin, std::int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor tile = at::empty({k, columns}, left.options());
    for (std::int64_t first = begin * columns; first < std::min(end * columns, n); first += columns) {
      const std::int64_t count = std::min(columns, n - first);
      turn(b + first * k, count, k, k, tile.mutable_data_ptr<float>(), columns);
      row_major_product(m, count, k, a, k, tile.const_data_ptr<float>(), columns, c + first, n, false);
    }
  });
  return result;
}

/// Whether a product of these is worth the turning.
bool takes(const at::Tensor& left, const at::Tensor& right) {
  return prefers_row_major_product() && is_float_matrix(left) && is_float_matrix(right) &&
         std::min({left.size(0), left.size(1), right.size(1)}) > 0 && left.size(0) >= tile_sizes::kFewestTurnedRows;
}

struct ProjectionFunction : torch::autograd::Function<ProjectionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({input, weight, bias.value_or(at::Tensor())});
    at::Tensor output = matrix_product(input, weight.t());
    return bias ? output.add_(*bias) : output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstreams) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1], &bias = saved[2];
    if (!upstreams[0].defined()) return variable_list(3);
    const auto plain = [](const variable_list& inputs) -> variable_list {
      return {plain_projection(inputs[0], inputs[1], inputs[2])};
    };
    return differentiable_gradients(plain, {input, weight, bias}, {upstreams[0]}, [&]() -> variable_list {
      const at::Tensor d_output = upstreams[0].contiguous();
      variable_list gradients(3);
      if (input.requires_grad()) gradients[0] = matrix_product(d_output, weight);
      if (weight.requires_grad()) gradients[1] = matrix_product(d_output.t(), input);
      if (bias.defined() && bias.requires_grad()) gradients[2] = d_output.sum(0);
      return gradients;
    });
  }
};

}  // namespace

bool prefers_row_major_product() {
#if defined(LMHEAD_VECTOR_X86)
  static const bool is_intel = __builtin_cpu_is("intel");
  return !is_intel && has_row_major_product() && may_use_avx512();
#else
  return false;
#endif
}

at::Tensor matrix_product(const at::Tensor& left, const at::Tensor& right) {
  if (!takes(left, right)) return at::mm(left, right);
  if (!right.is_contiguous()) return row_by_turned(left.is_contiguous() ? left : turned(left), right.t());
  if (left.is_contiguous()) return row_by_row(left, right);
  // Of left^T and right either one is turned, and in the second case the result is.
  if (left.size(0) <= right.size(1)) return row_by_row(turned(left), right);
  return turned(row_by_row(turned(right.t()), left.t()).t());
}

at::Tensor plain_projection(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::linear(input, weight, bias) : at::linear(input, weight);
}

at::Tensor projection(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor rows = input.dim() == 2 ? input : input.reshape({-1, input.size(-1)});
  if (!takes(rows, weight.t()) || (bias.defined() && bias.scalar_type() != at::kFloat) ||
      needs_plain_derivatives({input, weight, bias}))
    return plain_projection(input, weight, bias);
  const at::Tensor output =
      ProjectionFunction::apply(rows, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  if (input.dim() == 2) return output;
  std::vector<std::int64_t> shape = input.sizes().vec();
  shape.back() = weight.size(0);
  return output.view(shape);
}

}  // namespace lmhead
