// Rows of logits: maximum, sum of exponentials, gradient. See row_kernels.h for what each operation means.
#pragma once

#include "lmhead/kernels/vector/row_formulae.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

/// Where pieces lie, on the side of their arguments or of their values. Of a number x, clamp(x, low, high) - origin is
/// what it has of a piece: counted from the end that is nearer to 0, so that pieces below 0 count downwards.
template <class Wide>
struct PlacedPieces {
  PlacedPieces(const LinearPieces& pieces, bool values) : count(pieces.count) {
    const int half = count / 2;
    const auto slope_at = [&](int piece) { return values ? pieces.slopes[piece] : 1; };
    double above = 0, below = 0;
    for (int piece = half; piece < count; ++piece) {
      low[piece] = origin[piece] = static_cast<Wide>(above);
      above += pieces.step * slope_at(piece);
      high[piece] = static_cast<Wide>(piece + 1 < count ? above : HUGE_VAL);
    }
    for (int piece = half - 1; piece >= 0; --piece) {
      high[piece] = origin[piece] = static_cast<Wide>(below);
      below -= pieces.step * slope_at(piece);
      low[piece] = static_cast<Wide>(piece > 0 ? below : -HUGE_VAL);
    }
    for (int piece = 0; piece < count; ++piece) slope[piece] = static_cast<Wide>(pieces.slopes[piece]);
  }
  Wide share(Wide x, int piece) const {  // a NaN stays one
    const Wide raised = x < low[piece] ? low[piece] : x;
    return (raised > high[piece] ? high[piece] : raised) - origin[piece];
  }

  int count;
  Wide low[LinearPieces::kMost], high[LinearPieces::kMost], origin[LinearPieces::kMost], slope[LinearPieces::kMost];
};

/// What stays in the first cache while every piece is gone through.
constexpr std::int64_t kPieceChunk = 256;

template <class Wide>
void apply_pieces(const LinearPieces& given, std::int64_t size, Wide* line) {
  const PlacedPieces<Wide> pieces(given, /*values=*/false);
  Wide arguments[kPieceChunk];
  for (std::int64_t begin = 0; begin < size; begin += kPieceChunk) {
    const std::int64_t chunk = size - begin < kPieceChunk ? size - begin : kPieceChunk;
    Wide* part = line + begin;
    for (std::int64_t i = 0; i < chunk; ++i) arguments[i] = part[i], part[i] = 0;
    for (int piece = 0; piece < pieces.count; ++piece) {
      const Wide slope = pieces.slope[piece];
#pragma omp simd
      for (std::int64_t i = 0; i < chunk; ++i) part[i] += slope * pieces.share(arguments[i], piece);
    }
  }
}

/// Whether a line holds arguments of the map in place of logits.
inline bool keeps_arguments(const LineTransform& how) {
  return how.transform.sigsoftmax && how.inverse_temperature == 1 && !how.pieces;
}

template <class T, class Wide>
void load_logits(const T* stored, const Wide* bias, std::int64_t size, const LineTransform& how, Wide* line) {
  const LogitTransform& transform = how.transform;
  const Wide factor = static_cast<Wide>(transform.scale);
  if (bias) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = (load(stored[i]) + bias[i]) * factor;
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = load(stored[i]) * factor;
  }
  if (how.pieces) {
    apply_pieces(*how.pieces, size, line);
  } else if (transform.softcap > 0) {
    const Wide cap = static_cast<Wide>(transform.softcap);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = softcapped(line[i], cap);
  } else if (transform.sigmoid_cap.height > 0) {
    const Wide height = static_cast<Wide>(transform.sigmoid_cap.height);
    const Wide shift = static_cast<Wide>(transform.sigmoid_cap.shift);
    const Wide width = static_cast<Wide>(transform.sigmoid_cap.width);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = sigmoid_capped(line[i], height, shift, width);
  } else if (transform.sigsoftmax && !keeps_arguments(how)) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = sigsoftmaxed(line[i]);
  }
  if (how.inverse_temperature != 1) {
    const Wide inverse = static_cast<Wide>(how.inverse_temperature);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] *= inverse;
  }
}

template <class T, class Wide>
void store_logits(const Wide* line, std::int64_t size, T* stored) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) store(line[i], stored[i]);
}

template <class Wide>
double logit_of(Wide entry, const LineTransform& how) {
  const double wide = static_cast<double>(entry);
  return keeps_arguments(how) ? sigsoftmaxed(wide) : wide;
}

template <class Wide>
LineSums sigsoftmax_sums(const Wide* line, std::int64_t size, const Wide* class_weight, bool weighted, bool more) {
  const Wide lowest = -static_cast<Wide>(HUGE_VAL);
  Wide max = lowest;
#pragma omp simd reduction(max : max)
  for (std::int64_t i = 0; i < size; ++i) max = line[i] > max ? line[i] : max;
  const bool is_empty = max == lowest;
  // In float64, from which the gradient gets the same pivot back.
  const double largest = is_empty ? 0 : sigsoftmaxed(static_cast<double>(max));
  const Wide shift = static_cast<Wide>(largest);
  const SigsoftmaxAround<Wide> around(is_empty ? Wide(0) : max);
  Wide sum = 0, weighted_sum = 0, weight = 0, entropy = 0;
  LineSums sums{is_empty ? -HUGE_VAL : largest, 0, 0, 0, 0, 0};
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < size; ++i) sum += around(line[i]).exponential;
  if (more) {
#pragma omp simd reduction(+ : entropy)
    for (std::int64_t i = 0; i < size; ++i) {
      const Wide e = around(line[i]).exponential;
      entropy += e > 0 ? e * (sigsoftmaxed(line[i]) - shift) : e;  // 0 * -infinity would be NaN
    }
    while (sums.arg_max + 1 < size && line[sums.arg_max] != max) ++sums.arg_max;
  }
  if (weighted) {
#pragma omp simd reduction(+ : weighted_sum, weight)
    for (std::int64_t i = 0; i < size; ++i) {
      const Wide one = class_weight ? class_weight[i] : Wide(1);
      weighted_sum += one * (sigsoftmaxed(line[i]) - shift);
      weight += one;
    }
  }
  sums.sum = sum;
  sums.weighted = weighted_sum;
  sums.weight = class_weight ? weight : Wide(0);
  sums.entropy = entropy;
  return sums;
}

template <class Wide>
LineSums logit_sums(const Wide* line, std::int64_t size, const Wide* class_weight, bool weighted, bool more,
                    const LineTransform& how) {
  if (keeps_arguments(how)) return sigsoftmax_sums(line, size, class_weight, weighted, more);
  const Wide lowest = -static_cast<Wide>(HUGE_VAL);
  Wide max = lowest;
#pragma omp simd reduction(max : max)
  for (std::int64_t i = 0; i < size; ++i) max = line[i] > max ? line[i] : max;
  const Wide shift = max == lowest ? Wide(0) : max;
  Wide sum = 0, weighted_sum = 0, weight = 0, entropy = 0;
  LineSums sums{static_cast<double>(max), 0, 0, 0, 0, 0};
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
#pragma omp simd reduction(+ : weighted_sum, weight)
    for (std::int64_t i = 0; i < size; ++i) {
      weighted_sum += class_weight[i] * (line[i] - shift);
      weight += class_weight[i];
    }
  } else if (weighted) {
#pragma omp simd reduction(+ : weighted_sum)
    for (std::int64_t i = 0; i < size; ++i) weighted_sum += line[i] - shift;
  }
  sums.sum = sum;
  sums.weighted = weighted_sum;
  sums.weight = weight;
  sums.entropy = entropy;
  return sums;
}

template <class Wide, class Slope>
void sloped_gradient(Wide* line, std::int64_t size, const LineGradient& factors, const Wide* class_weight,
                     const Slope& slope) {
  // The same exponentials as in the sum, so that their rounding cancels in p.
  const Wide shift = static_cast<Wide>(factors.shift);
  const Wide probability = static_cast<Wide>(factors.probability), smoothing = static_cast<Wide>(factors.smoothing);
  const std::int64_t target = factors.target_index;
  const bool holds_target = target >= 0 && target < size;
  Wide target_gradient = 0;
  if (holds_target)  // subtracted before the slope is applied, so that p = 1 gives exactly 0
    target_gradient = (probability * exponential(line[target] - shift) - static_cast<Wide>(factors.target) -
                       (class_weight ? smoothing * class_weight[target] : smoothing)) *
                      slope.of_target(line[target]);
  if (factors.moment != 0) {
    const Wide moment = static_cast<Wide>(factors.moment);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      const Wide difference = line[i] - shift, e = exponential(difference);
      const Wide gradient = e > 0 ? e * (probability + moment * difference) : e;  // 0 * -infinity would be NaN
      line[i] = gradient * slope(line[i]);
    }
    return;
  }
  if (factors.smoothing == 0) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) line[i] = probability * exponential(line[i] - shift) * slope(line[i]);
  } else if (class_weight) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i)
      line[i] = (probability * exponential(line[i] - shift) - smoothing * class_weight[i]) * slope(line[i]);
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i)
      line[i] = (probability * exponential(line[i] - shift) - smoothing) * slope(line[i]);
  }
  if (holds_target) line[target] = target_gradient;
}

/// Increasing pieces are known again by their values, which are all that is left of a line.
template <class Wide>
void pieces_gradient(Wide* line, std::int64_t size, const LineGradient& factors, const Wide* class_weight,
                     const LinearPieces& given, Wide temperature) {
  const PlacedPieces<Wide> pieces(given, /*values=*/true);
  Wide values[kPieceChunk], slopes[kPieceChunk];
  for (std::int64_t begin = 0; begin < size; begin += kPieceChunk) {
    const std::int64_t chunk = size - begin < kPieceChunk ? size - begin : kPieceChunk;
    Wide* part = line + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < chunk; ++i) values[i] = part[i] * temperature, slopes[i] = pieces.slope[0];
    for (int piece = 1; piece < pieces.count; ++piece) {
      const Wide low = pieces.low[piece], slope = pieces.slope[piece];
#pragma omp simd
      for (std::int64_t i = 0; i < chunk; ++i) slopes[i] = values[i] >= low ? slope : slopes[i];
    }
    LineGradient of_part = factors;
    of_part.target_index -= begin;
    sloped_gradient(part, chunk, of_part, class_weight ? class_weight + begin : nullptr, NoSlope<Wide>{});
    for (int piece = 0; factors.by_slopes && piece < pieces.count; ++piece) {
      Wide sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < chunk; ++i) sum += part[i] * pieces.share(values[i], piece);
      factors.by_slopes[piece] += static_cast<double>(sum) / given.slopes[piece];
    }
#pragma omp simd
    for (std::int64_t i = 0; i < chunk; ++i) part[i] *= slopes[i];
  }
}

template <class Wide>
void sigsoftmax_gradient(Wide* line, std::int64_t size, const LineGradient& factors, const Wide* class_weight) {
  const SigsoftmaxAround<Wide> around(static_cast<Wide>(sigsoftmax_argument(factors.shift)));
  const Wide probability = static_cast<Wide>(factors.probability), smoothing = static_cast<Wide>(factors.smoothing);
  const std::int64_t target = factors.target_index;
  const bool holds_target = target >= 0 && target < size;
  Wide target_gradient = 0;
  if (holds_target)
    target_gradient = (probability * around(line[target]).exponential - static_cast<Wide>(factors.target) -
                       (class_weight ? smoothing * class_weight[target] : smoothing)) *
                      sigsoftmax_slope(line[target]);
  if (factors.moment != 0) {
    const Wide moment = static_cast<Wide>(factors.moment), shift = static_cast<Wide>(factors.shift);
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      const SigsoftmaxTerms<Wide> terms = around(line[i]);
      const Wide e = terms.exponential, difference = sigsoftmaxed(line[i]) - shift;
      line[i] = (e > 0 ? e * (probability + moment * difference) : e) * terms.slope;  // 0 * -infinity would be NaN
    }
    return;
  }
  if (factors.smoothing == 0) {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i) {
      const SigsoftmaxTerms<Wide> terms = around(line[i]);
      line[i] = probability * terms.exponential * terms.slope;
    }
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < size; ++i)
      line[i] = (probability * around(line[i]).exponential - (class_weight ? smoothing * class_weight[i] : smoothing)) *
                sigsoftmax_slope(line[i]);
  }
  if (holds_target) line[target] = target_gradient;
}

template <class Wide>
void logit_gradient(Wide* line, std::int64_t size, const LineGradient& factors, const Wide* class_weight,
                    const LineTransform& how) {
  const LogitTransform& transform = how.transform;
  const double temperature = 1 / how.inverse_temperature;
  if (how.pieces)
    return pieces_gradient(line, size, factors, class_weight, *how.pieces, static_cast<Wide>(temperature));
  if (transform.softcap > 0)
    return sloped_gradient(line, size, factors, class_weight,
                           SoftcapSlope<Wide>{static_cast<Wide>(transform.softcap * how.inverse_temperature),
                                              static_cast<Wide>(1 / (transform.softcap * how.inverse_temperature))});
  if (transform.sigmoid_cap.height > 0) {
    const SigmoidCap& cap = transform.sigmoid_cap;
    return sloped_gradient(
        line, size, factors, class_weight,
        SigmoidCapSlope<Wide>{static_cast<Wide>(temperature / cap.height), static_cast<Wide>(cap.height / cap.width)});
  }
  if (keeps_arguments(how)) return sigsoftmax_gradient(line, size, factors, class_weight);
  if (transform.sigsoftmax)
    return sloped_gradient(line, size, factors, class_weight, SigsoftmaxSlope<Wide>{static_cast<Wide>(temperature)});
  sloped_gradient(line, size, factors, class_weight, NoSlope<Wide>{});
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
  return {load_logits<T, Wide>, store_logits<T, Wide>,     logit_of<Wide>,
          logit_sums<Wide>,     logit_gradient<Wide>,      logit_dot<Wide>,
          logit_moments<Wide>,  logit_magnitude<Wide>,     add_line_to_double<Wide>,
          add_stored<T, Wide>,  add_scaled_stored<T, Wide>};
}

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
