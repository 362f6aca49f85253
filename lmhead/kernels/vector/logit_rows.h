// Rows of logits: maximum, sum of exponentials, gradient. See row_kernels.h for what each operation means.
#pragma once

#include "lmhead/kernels/vector/elementary.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

template <class T, class Wide>
void load_logits(const T* stored, const Wide* bias, std::int64_t size, double scale, double softcap, Wide* line) {
  const Wide factor = static_cast<Wide>(scale);
  if (bias) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = (load(stored[i]) + bias[i]) * factor;
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = load(stored[i]) * factor;
  }
  if (softcap > 0) {
    const Wide cap = static_cast<Wide>(softcap);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = hyperbolic_tangent(line[i] / cap) * cap;
  }
}

template <class T, class Wide>
void store_logits(const Wide* line, std::int64_t size, T* stored) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) store(line[i], stored[i]);
}

template <class Wide>
LineSums logit_sums(const Wide* line, std::int64_t size, const Wide* class_weight, bool weighted, bool more) {
  const Wide lowest = -static_cast<Wide>(HUGE_VAL);
  Wide max = lowest;
#pragma omp simd reduction(max : max)
  for (std::int64_t i = 0; i < size; ++i) max = line[i] > max ? line[i] : max;
  const Wide shift = max == lowest ? Wide(0) : max;
  Wide sum = 0, weighted_sum = 0, entropy = 0;
  LineSums sums{static_cast<double>(max), 0, 0, 0, 0};
  if (!more) {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < size; ++i) sum += exponential(line[i] - shift);
  } else {
#pragma omp simd reduction(+ : sum, entropy)
    for (std::int64_t i = 0; i < size; ++i) {
      const Wide difference = line[i] - shift, e = exponential(difference);
      sum += e;
      entropy += e > 0 ? e * difference : e;  // 0 * -infinity would be NaN
    }
    while (sums.arg_max + 1 < size && line[sums.arg_max] != max) ++sums.arg_max;
  }
  if (weighted && class_weight) {
#pragma omp simd reduction(+ : weighted_sum)
    for (std::int64_t i = 0; i < size; ++i) weighted_sum += class_weight[i] * (line[i] - shift);
  } else if (weighted) {
#pragma omp simd reduction(+ : weighted_sum)
    for (std::int64_t i = 0; i < size; ++i) weighted_sum += line[i] - shift;
  }
  sums.sum = sum;
  sums.weighted = weighted_sum;
  sums.entropy = entropy;
  return sums;
}

template <class Wide>
void logit_gradient(Wide* line, std::int64_t size, const LineGradient& factors, const Wide* class_weight) {
  // The same exponentials as in the sum, so that their rounding cancels in p.
  const Wide shift = static_cast<Wide>(factors.shift);
  const Wide probability = static_cast<Wide>(factors.probability), smoothing = static_cast<Wide>(factors.smoothing);
  const std::int64_t target = factors.target_index;
  const bool holds_target = target >= 0 && target < size;
  Wide target_gradient = 0;
  if (holds_target) {  // subtracted before the slope is applied, so that p = 1 gives exactly 0
    target_gradient = probability * exponential(line[target] - shift) - static_cast<Wide>(factors.target) -
                      (class_weight ? smoothing * class_weight[target] : smoothing);
    if (factors.softcap > 0) {
      const Wide share = line[target] / static_cast<Wide>(factors.softcap);
      target_gradient *= 1 - share * share;
    }
  }
  if (factors.softcap > 0) {
    const Wide inverse_cap = static_cast<Wide>(1 / factors.softcap);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      const Wide share = line[i] * inverse_cap;
      const Wide gradient =
          probability * exponential(line[i] - shift) - (class_weight ? smoothing * class_weight[i] : smoothing);
      line[i] = gradient * (1 - share * share);
    }
  } else if (factors.smoothing == 0) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = probability * exponential(line[i] - shift);
  } else if (class_weight) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i)
      line[i] = probability * exponential(line[i] - shift) - smoothing * class_weight[i];
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = probability * exponential(line[i] - shift) - smoothing;
  }
  if (holds_target) line[target] = target_gradient;
}

template <class Wide>
double logit_dot(const Wide* left, const Wide* right, std::int64_t size) {
  Wide sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < size; ++i) sum += left[i] * right[i];
  return sum;
}

template <class Wide>
LineMoments logit_moments(const Wide* line, std::int64_t size, Wide* total) {
  Wide sum = 0, square_sum = 0;
#pragma omp simd reduction(+ : sum, square_sum)
  for (std::int64_t i = 0; i < size; ++i) {
    sum += line[i];
    square_sum += line[i] * line[i];
    total[i] += line[i];
  }
  return {static_cast<double>(sum), static_cast<double>(square_sum)};
}

template <class Wide>
Wide logit_magnitude(const Wide* line, std::int64_t size) {
  Wide largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < size; ++i) {
    const Wide value = line[i] < 0 ? -line[i] : line[i];
    const Wide safe = value == value ? value : static_cast<Wide>(HUGE_VAL);
    largest = safe > largest ? safe : largest;
  }
  return largest;
}

template <class Wide>
void add_line_to_double(const Wide* line, std::int64_t size, double* sums) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) sums[i] += line[i];
}

template <class T, class Wide>
void add_stored(const T* stored, std::int64_t size, bool first, Wide* total) {
  if (first) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) total[i] = load(stored[i]);
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) total[i] += load(stored[i]);
  }
}

template <class T, class Wide>
void add_scaled_stored(const T* stored, std::int64_t size, double scale, Wide* total) {
  const Wide factor = static_cast<Wide>(scale);
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) total[i] += factor * load(stored[i]);
}

template <class T, class Wide>
constexpr LogitKernels<T, Wide> logit_kernels() {
  return {load_logits<T, Wide>, store_logits<T, Wide>,     logit_sums<Wide>,      logit_gradient<Wide>,
          logit_dot<Wide>,      logit_moments<Wide>,       logit_magnitude<Wide>, add_line_to_double<Wide>,
          add_stored<T, Wide>,  add_scaled_stored<T, Wide>};
}

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
