// Narrow heads as a differentiable CPU kernel, a thread a sequence and key head; the plain way for all others.
#include "lmhead/kernels/packed_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

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

template <class T>
const vector::AttentionKernels<T>& attention_kernels() {
  if constexpr (std::is_same_v<T, double>) return vector::row_kernels().attention_double;
  else return vector::row_kernels().attention_float;
}

template <class Work>
void with_type(at::ScalarType type, const Work& work) {
  if (type == at::kDouble) work(double{});
  else work(float{});
}

struct Shape {
  Shape(const at::Tensor& projected, std::int64_t query_heads)
      : batch(projected.size(0)),
        length(projected.size(1)),
        all_heads(projected.size(2)),
        width(projected.size(3)),
        heads(query_heads),
        key_heads((all_heads - heads) / 2),
        group(heads / key_heads) {}
  std::int64_t batch, length, all_heads, width, heads, key_heads, group;
};

/// Calls `work(sequence, key_head, workspace)` for each of them, spread over the threads.
template <class T, class Work>
void for_each_key_head(const Shape& shape, const at::Tensor& like, const Work& work) {
  const std::int64_t size = attention_kernels<T>().workspace(shape.length, shape.width);
  const at::Tensor workspaces = at::empty({at::get_num_threads(), size}, like.options());
  at::parallel_for(0, shape.batch * shape.key_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    T* workspace = workspaces.mutable_data_ptr<T>() + at::get_thread_num() * size;
    for (std::int64_t index = begin; index < end; ++index)
      work(index / shape.key_heads, index % shape.key_heads, workspace);
  });
}

/// Where the vectors of one head begin in a sequence's first token.
struct HeadPlace {
  HeadPlace(const Shape& s, std::int64_t sequence, std::int64_t key_head, std::int64_t head)
      : stride(s.all_heads * s.width),
        query(sequence * s.length * stride + head * s.width),
        key(sequence * s.length * stride + (s.heads + key_head) * s.width),
        value(key + s.key_heads * s.width) {}
  std::int64_t stride, query, key, value;
};

template <class T>
vector::AttentionHead<T> head_at(const Shape& s, const HeadPlace& place, const at::Tensor& projected, double scale) {
  const T* first = projected.const_data_ptr<T>();
  return {first + place.query, first + place.key, first + place.value, place.stride, s.length, s.width, T(scale)};
}

/// `attend(query, key, value)`, each [B, H, T, d], of the three parts.
template <class Attend>
at::Tensor attention_by_parts(const at::Tensor& projected, std::int64_t heads, const Attend& attend) {
  const std::int64_t key_heads = (projected.size(2) - heads) / 2;
  const auto parts = projected.split_with_sizes({heads, key_heads, key_heads}, 2);
  const auto spread = [&](const at::Tensor& part) {
    return part.repeat_interleave(heads / key_heads, 2).transpose(1, 2);
  };
  return attend(parts[0].transpose(1, 2), spread(parts[1]), spread(parts[2]))
      .transpose(1, 2)
      .reshape({projected.size(0) * projected.size(1), heads * projected.size(3)});
}

/// The composition whose derivatives of every kind exist, at T x T numbers a head; ATen's fused kernels have one.
at::Tensor differentiable_attention(const at::Tensor& projected, std::int64_t heads, double scale) {
  return attention_by_parts(
      projected, heads, [&](const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
        const std::int64_t length = query.size(2);
        const at::Tensor later = at::ones({length, length}, query.options().dtype(at::kBool)).triu(1);
        const at::Tensor scores = at::matmul(query * scale, key.transpose(2, 3));
        return at::matmul(at::softmax(scores.masked_fill(later, -std::numeric_limits<double>::infinity()), 3), value);
      });
}

struct PackedAttentionFunction : torch::autograd::Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given, std::int64_t heads, double scale) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor projected = given.contiguous();
    const Shape s(projected, heads);
    const at::Tensor output = at::empty({s.batch * s.length, s.heads * s.width}, projected.options());
    const at::Tensor log_sums = at::empty({s.batch, s.heads, s.length}, projected.options());
    with_type(projected.scalar_type(), [&](auto type) {
      using T = decltype(type);
      for_each_key_head<T>(s, projected, [&](std::int64_t sequence, std::int64_t key_head, T* workspace) {
        for (std::int64_t head = key_head * s.group; head < (key_head + 1) * s.group; ++head)
          attention_kernels<T>().forward(
              head_at<T>(s, {s, sequence, key_head, head}, projected, scale),
              output.mutable_data_ptr<T>() + (sequence * s.length * s.heads + head) * s.width, s.heads * s.width,
              log_sums.mutable_data_ptr<T>() + (sequence * s.heads + head) * s.length, workspace);
      });
    });
    context->save_for_backward({given, output, log_sums});
    context->saved_data["heads"] = heads;
    context->saved_data["scale"] = scale;
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstreams) {
    if (!upstreams[0].defined()) return variable_list(3);
    const auto saved = context->get_saved_variables();
    const double scale = context->saved_data["scale"].toDouble();
    const auto plain = [scale,
                        heads = context->saved_data["heads"].toInt()](const variable_list& inputs) -> variable_list {
      return {differentiable_attention(inputs[0], heads, scale)};
    };
    variable_list gradients = differentiable_gradients(plain, {saved[0]}, {upstreams[0]}, [&]() -> variable_list {
      const at::Tensor projected = saved[0].contiguous(), d_output = upstreams[0].contiguous();
      const Shape s(projected, context->saved_data["heads"].toInt());
      const at::Tensor d_projected = at::zeros_like(projected);
      with_type(projected.scalar_type(), [&](auto type) {
        using T = decltype(type);
        for_each_key_head<T>(s, projected, [&](std::int64_t sequence, std::int64_t key_head, T* workspace) {
          for (std::int64_t head = key_head * s.group; head < (key_head + 1) * s.group; ++head) {
            const HeadPlace place(s, sequence, key_head, head);
            T* into = d_projected.mutable_data_ptr<T>();
            const std::int64_t offset = (sequence * s.length * s.heads + head) * s.width;
            attention_kernels<T>().backward(
                head_at<T>(s, place, projected, scale), saved[1].const_data_ptr<T>() + offset,
                d_output.const_data_ptr<T>() + offset, s.heads * s.width,
                saved[2].const_data_ptr<T>() + (sequence * s.heads + head) * s.length,
                {into + place.query, into + place.key, into + place.value, place.stride}, workspace);
          }
        });
      });
      return {d_projected};
    });
    gradients.resize(3);
    return gradients;
  }
};

}  // namespace

bool has_packed_kernel(const at::Tensor& projected) {
  return is_readable(projected) && has_kernel_type(projected) && projected.size(3) <= tile_sizes::kNarrowHead &&
         projected.size(1) <= tile_sizes::kShortSequence;
}

at::Tensor packed_causal_attention(const at::Tensor& projected, std::int64_t heads, double scale) {
  require(projected.dim() == 4 && heads >= 1 && projected.size(2) > heads && (projected.size(2) - heads) % 2 == 0 &&
              heads % ((projected.size(2) - heads) / 2) == 0,
          "packed_causal_attention", "projected must be [B, T, H + 2 K, head_dim] with K a divisor of H = ", heads,
          ", got ", projected.sizes());
  if (needs_plain_derivatives({projected})) return differentiable_attention(projected, heads, scale);
  if (!has_packed_kernel(projected)) return plain_packed_causal_attention(projected, heads, scale);
  // Casting and computing in float32 is faster than bfloat16 products of this size.
  const bool casts = projected.scalar_type() == at::kBFloat16;
  const at::Tensor output = PackedAttentionFunction::apply(casts ? projected.to(at::kFloat) : projected, heads, scale);
  return casts ? output.to(at::kBFloat16) : output;
}

at::Tensor plain_packed_causal_attention(const at::Tensor& projected, std::int64_t heads, double scale) {
  return attention_by_parts(
      projected, heads, [&](const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
        return at::scaled_dot_product_attention(query, key, value, {}, 0.0, /*is_causal=*/true, scale);
      });
}

}  // namespace lmhead
