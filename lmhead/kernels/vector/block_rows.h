// Rows of a decoder block: RMSNorm, SwiGLU, rotary embedding. See row_kernels.h for what each operation means.
#pragma once

#include "lmhead/kernels/vector/elementary.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

template <class In, class Out, class Wide>
Wide norm_forward(const In* input, const Wide* weight, std::int64_t size, double eps, Out* output) {
  Wide squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < size; ++i) {
    const Wide x = load(input[i]);
    squares += x * x;
  }
  const Wide inverse = static_cast<Wide>(1 / std::sqrt(static_cast<double>(squares) / static_cast<double>(size) + eps));
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) store(load(input[i]) * inverse * weight[i], output[i]);
  return inverse;
}

template <class In, class Out, class Wide>
void norm_backward(const Out* d_output, const In* input, const Wide* weight, Wide inverse, std::int64_t size,
                   In* d_input, Wide* d_weight) {
  // With u = d_output * weight: d_input = inverse * (u - input * inverse^2 * mean(u * input)).
  if (d_input) {
    Wide product = 0;
#pragma omp simd reduction(+ : product)
    for (std::int64_t i = 0; i < size; ++i) product += Wide(load(d_output[i])) * weight[i] * load(input[i]);
    const Wide pull = product * inverse * inverse / static_cast<Wide>(size);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i)
      store(inverse * (Wide(load(d_output[i])) * weight[i] - load(input[i]) * pull), d_input[i]);
  }
  if (d_weight) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) d_weight[i] += Wide(load(d_output[i])) * load(input[i]) * inverse;
  }
}

template <class T, class Wide>
void swiglu_forward(const T* gate, const T* up, std::int64_t size, T* output) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) {
    const Wide g = load(gate[i]);
    store(g / (1 + exponential(-g)) * load(up[i]), output[i]);
  }
}

template <class T, class Wide>
void swiglu_backward(const T* d_output, const T* gate, const T* up, std::int64_t size, T* d_gate, T* d_up) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) {
    const Wide g = load(gate[i]), u = load(up[i]), d = load(d_output[i]);
    const Wide sigmoid = 1 / (1 + exponential(-g));
    store(d * u * (sigmoid * (1 + g * (1 - sigmoid))), d_gate[i]);
    store(d * (g * sigmoid), d_up[i]);
  }
}

template <class T, class Wide>
void rotate_heads(const T* input, const Wide* cosine, const Wide* sine, double direction, std::int64_t half,
                  std::int64_t heads, std::int64_t width, T* output) {
  const Wide sign = static_cast<Wide>(direction);
  for (std::int64_t head = 0; head < heads; ++head, input += width, output += width) {
#pragma omp simd
    for (std::int64_t i = 0; i < half; ++i) {
      const Wide a = load(input[i]), b = load(input[half + i]), c = cosine[i], s = sign * sine[i];
      store(a * c - b * s, output[i]);
      store(b * c + a * s, output[half + i]);
    }
    for (std::int64_t i = 2 * half; i < width; ++i) output[i] = input[i];
  }
}

template <class In, class Out, class Wide>
constexpr NormKernels<In, Out, Wide> norm_kernels() {
  return {norm_forward<In, Out, Wide>, norm_backward<In, Out, Wide>};
}
template <class T, class Wide>
constexpr BlockKernels<T, Wide> block_kernels() {
  return {swiglu_forward<T, Wide>, swiglu_backward<T, Wide>, rotate_heads<T, Wide>};
}

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
