// Causal attention of one head over a sequence, for heads too narrow for matrix products to pay. See row_kernels.h for
// what each operation means.
//
// Sixteen queries (forwards) or keys (backwards) lie side by side in a vector, so every multiply-add is a full one
// however narrow the head is, and rows above the diagonal are left out sixteen at a time.
#pragma once

#include "lmhead/kernels/vector/elementary.h"

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

constexpr std::int64_t kLanes = 16, kRowsAtOnce = 4, kChannelsAtOnce = 8;

template <class T>
struct Lanes {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T))));
};

inline std::int64_t up_to_lanes(std::int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }
inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// columns[c][lane] = rows[lane][c] * scale for the first `count` lanes, 0 beyond.
template <class T>
void lay_side_by_side(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t width, T scale, T* columns) {
  for (std::int64_t c = 0; c < width; ++c)
    for (std::int64_t lane = 0; lane < kLanes; ++lane)
      columns[c * kLanes + lane] = lane < count ? rows[lane * stride + c] * scale : T(0);
}

/// products[row][lane] = sum over c of rows[row][c] * columns[c][lane], for kRowsAtOnce rows.
template <class T>
inline void multiply_rows(const T* rows, std::int64_t stride, const T* columns, std::int64_t width, T* products) {
  using Vector = typename Lanes<T>::Type;
  Vector sums[kRowsAtOnce] = {};
  for (std::int64_t c = 0; c < width; ++c) {
    const Vector column = *reinterpret_cast<const Vector*>(columns + c * kLanes);
    for (std::int64_t row = 0; row < kRowsAtOnce; ++row) sums[row] += rows[row * stride + c] * column;
  }
  for (std::int64_t row = 0; row < kRowsAtOnce; ++row) *reinterpret_cast<Vector*>(products + row * kLanes) = sums[row];
}

/// totals[c][lane] += sum over the rows of weights[row][lane] * rows[row][c], for `Channels` consecutive c.
template <std::int64_t Channels, class T>
inline void add_weighted(const T* weights, const T* rows, std::int64_t stride, std::int64_t count, T* totals) {
  using Vector = typename Lanes<T>::Type;
  Vector sums[Channels];
  for (std::int64_t c = 0; c < Channels; ++c) sums[c] = *reinterpret_cast<const Vector*>(totals + c * kLanes);
  for (std::int64_t row = 0; row < count; ++row) {
    const Vector weight = *reinterpret_cast<const Vector*>(weights + row * kLanes);
    for (std::int64_t c = 0; c < Channels; ++c) sums[c] += rows[row * stride + c] * weight;
  }
  for (std::int64_t c = 0; c < Channels; ++c) *reinterpret_cast<Vector*>(totals + c * kLanes) = sums[c];
}

template <class T>
inline void add_weighted(const T* weights, const T* rows, std::int64_t stride, std::int64_t count, std::int64_t width,
                         T* totals) {
  std::int64_t c = 0;
  for (; c + kChannelsAtOnce <= width; c += kChannelsAtOnce)
    add_weighted<kChannelsAtOnce>(weights, rows + c, stride, count, totals + c * kLanes);
  for (; c < width; ++c) add_weighted<1>(weights, rows + c, stride, count, totals + c * kLanes);
}

template <class T>
void attention_forward(const AttentionHead<T>& head, T* output, std::int64_t output_stride, T* log_sums, T* workspace) {
  const std::int64_t length = head.length, width = head.width;
  T* queries = workspace;               // [width][lanes]
  T* mixed = queries + width * kLanes;  // [width][lanes]
  T* weights = mixed + width * kLanes;  // [length, rounded up][lanes]
  for (std::int64_t first = 0; first < length; first += kLanes) {
    const std::int64_t count = smaller(kLanes, length - first), keys = first + count;
    lay_side_by_side(head.query + first * head.stride, head.stride, count, width, head.scale, queries);
    std::int64_t key = 0;
    for (; key + kRowsAtOnce <= keys; key += kRowsAtOnce)
      multiply_rows(head.key + key * head.stride, head.stride, queries, width, weights + key * kLanes);
    for (; key < keys; ++key)
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        T sum = 0;
        for (std::int64_t c = 0; c < width; ++c) sum += head.key[key * head.stride + c] * queries[c * kLanes + lane];
        weights[key * kLanes + lane] = sum;
      }
    T largest[kLanes], sums[kLanes];
    for (std::int64_t lane = 0; lane < kLanes; ++lane) largest[lane] = weights[lane], sums[lane] = 0;  // all see key 0
    for (std::int64_t k = 0; k < keys; ++k) {
      T* row = weights + k * kLanes;
      for (std::int64_t lane = 0; lane < k - first; ++lane) row[lane] = -INFINITY;  // queries before the key
#pragma omp simd
      for (std::int64_t lane = 0; lane < kLanes; ++lane)
        largest[lane] = row[lane] > largest[lane] ? row[lane] : largest[lane];
    }
    for (std::int64_t k = 0; k < keys; ++k) {
      T* row = weights + k * kLanes;
#pragma omp simd
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        row[lane] = exponential(row[lane] - largest[lane]);
        sums[lane] += row[lane];
      }
    }
    for (std::int64_t i = 0; i < width * kLanes; ++i) mixed[i] = 0;
    add_weighted(weights, head.value, head.stride, keys, width, mixed);
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const T inverse = 1 / sums[lane];
      T* to = output + (first + lane) * output_stride;
      for (std::int64_t c = 0; c < width; ++c) to[c] = mixed[c * kLanes + lane] * inverse;
      log_sums[first + lane] = largest[lane] + std::log(sums[lane]);
    }
  }
}

/// d_query[row][c] = sum over the keys it sees of pulls[row][key] * keys[key][c], for kRowsAtOnce rows and `Blocks`
/// vectors of c.
template <std::int64_t Blocks, class T>
inline void gather_query_gradient(const T* pulls, std::int64_t pull_stride, std::int64_t keys_seen, const T* keys,
                                  std::int64_t key_stride, T* products) {
  using Vector = typename Lanes<T>::Type;
  Vector sums[kRowsAtOnce][Blocks] = {};
  for (std::int64_t key = 0; key < keys_seen; ++key)
    for (std::int64_t block = 0; block < Blocks; ++block) {
      const Vector values = *reinterpret_cast<const Vector*>(keys + key * key_stride + block * kLanes);
      for (std::int64_t row = 0; row < kRowsAtOnce; ++row) sums[row][block] += pulls[row * pull_stride + key] * values;
    }
  for (std::int64_t row = 0; row < kRowsAtOnce; ++row)
    for (std::int64_t block = 0; block < Blocks; ++block)
      *reinterpret_cast<Vector*>(products + (row * Blocks + block) * kLanes) = sums[row][block];
}

template <class T>
void attention_backward(const AttentionHead<T>& head, const T* output, const T* d_output, std::int64_t output_stride,
                        const T* log_sums, const AttentionGradient<T>& gradient, T* workspace) {
  using Vector = typename Lanes<T>::Type;
  const std::int64_t length = head.length, width = head.width, padded = up_to_lanes(length), wide = up_to_lanes(width);
  const std::int64_t rows = (length + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
  T* keys = workspace;                // [width][lanes] of one block of keys
  T* values = keys + width * kLanes;  // the same of values
  T* d_keys = values + width * kLanes;
  T* d_values = d_keys + width * kLanes;
  T* queries = d_values + width * kLanes;  // [rows][width], scaled; zeros beyond the length
  T* d_mixed = queries + rows * width;     // [rows][width]
  T* means = d_mixed + rows * width;       // [rows]: sum of output * d_output
  T* levels = means + rows;                // [rows]: log_sums
  T* pulls = levels + rows;                // [rows][padded]: gradients of the scores
  T* key_rows = pulls + rows * padded;     // [length][wide], zeros beyond the width
  for (std::int64_t row = 0; row < rows; ++row) {
    T mean = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const bool there = row < length;
      queries[row * width + c] = there ? head.query[row * head.stride + c] * head.scale : T(0);
      d_mixed[row * width + c] = there ? d_output[row * output_stride + c] : T(0);
      if (there) mean += output[row * output_stride + c] * d_output[row * output_stride + c];
    }
    means[row] = mean;
    levels[row] = row < length ? log_sums[row] : T(INFINITY);  // probabilities of rows that are not there are 0
  }
  for (std::int64_t key = 0; key < length; ++key)
    for (std::int64_t c = 0; c < wide; ++c)
      key_rows[key * wide + c] = c < width ? head.key[key * head.stride + c] : T(0);

  for (std::int64_t first = 0; first < length; first += kLanes) {
    const std::int64_t count = smaller(kLanes, length - first);
    lay_side_by_side(head.key + first * head.stride, head.stride, count, width, T(1), keys);
    lay_side_by_side(head.value + first * head.stride, head.stride, count, width, T(1), values);
    for (std::int64_t i = 0; i < 2 * width * kLanes; ++i) d_keys[i] = 0;  // d_values follow
    for (std::int64_t row = first; row < rows; row += kRowsAtOnce) {
      T weights[kRowsAtOnce * kLanes], slopes[kRowsAtOnce * kLanes];
      multiply_rows(queries + row * width, width, keys, width, weights);
      multiply_rows(d_mixed + row * width, width, values, width, slopes);
      for (std::int64_t r = 0; r < kRowsAtOnce; ++r) {
        const T level = levels[row + r], mean = means[row + r];
        T* weight = weights + r * kLanes;
        T* slope = slopes + r * kLanes;
#pragma omp simd
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
          const T probability = first + lane <= row + r ? exponential(weight[lane] - level) : T(0);
          weight[lane] = probability;
          slope[lane] = probability * (slope[lane] - mean);
        }
        *reinterpret_cast<Vector*>(pulls + (row + r) * padded + first) = *reinterpret_cast<const Vector*>(slope);
      }
      add_weighted(weights, d_mixed + row * width, width, kRowsAtOnce, width, d_values);
      add_weighted(slopes, queries + row * width, width, kRowsAtOnce, width, d_keys);
    }
    for (std::int64_t lane = 0; lane < count; ++lane)
      for (std::int64_t c = 0; c < width; ++c) {
        gradient.key[(first + lane) * gradient.stride + c] += d_keys[c * kLanes + lane];
        gradient.value[(first + lane) * gradient.stride + c] += d_values[c * kLanes + lane];
      }
  }

  for (std::int64_t row = 0; row < rows; row += kRowsAtOnce) {
    const std::int64_t seen = smaller(length, row + kRowsAtOnce), count = smaller(kRowsAtOnce, length - row);
    T products[kRowsAtOnce * 2 * kLanes];
    const auto put = [&](std::int64_t blocks, std::int64_t offset) {
      for (std::int64_t r = 0; r < count; ++r)
        for (std::int64_t c = 0; c < smaller(blocks * kLanes, width - offset); ++c)
          gradient.query[(row + r) * gradient.stride + offset + c] = products[r * blocks * kLanes + c] * head.scale;
    };
    std::int64_t offset = 0;
    for (; offset + 2 * kLanes <= wide; offset += 2 * kLanes) {
      gather_query_gradient<2>(pulls + row * padded, padded, seen, key_rows + offset, wide, products);
      put(2, offset);
    }
    if (offset < wide) {
      gather_query_gradient<1>(pulls + row * padded, padded, seen, key_rows + offset, wide, products);
      put(1, offset);
    }
  }
}

inline std::int64_t attention_workspace(std::int64_t length, std::int64_t width) {
  const std::int64_t padded = up_to_lanes(length);
  const std::int64_t forward = 2 * width * kLanes + padded * kLanes;
  const std::int64_t backward =
      4 * width * kLanes + 2 * padded * (width + 1) + padded * padded + length * up_to_lanes(width);
  return forward > backward ? forward : backward;
}

template <class T>
T exponentials(T* scores, std::int64_t size) {
  T largest = scores[0];
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < size; ++i) largest = scores[i] > largest ? scores[i] : largest;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < size; ++i) {
    scores[i] = exponential(scores[i] - largest);
    sum += scores[i];
  }
  return sum;
}

template <class T>
constexpr AttentionKernels<T> attention_kernels() {
  return {attention_workspace, attention_forward<T>, attention_backward<T>, exponentials<T>};
}

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
