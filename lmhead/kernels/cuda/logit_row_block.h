// What one block of threads does with one row of logits, thread by thread: the kernel calls it on a GPU, and a test on
// the CPU in the same order.
//
// A row is read once for its sums, by every thread over its own numbers with a maximum that grows as it goes; threads'
// sums are put together as a tree; and read once more to become its gradient, in place. With kFigures what diagnostics
// ask of a token comes out of the same two readings.
#pragma once

#include "lmhead/kernels/cuda/logit_rows.h"
#include "lmhead/kernels/vector/row_formulae.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace lmhead::vector::LMHEAD_VECTOR_LEVEL {

struct Float16 {
  std::uint16_t bits;
};

#ifdef __CUDACC__
LMHEAD_BOTH inline float load(Float16 value) { return __half2float(__half(__half_raw{value.bits})); }
LMHEAD_BOTH inline void store(float value, Float16& place) {
  place.bits = static_cast<__half_raw>(__float2half_rn(value)).x;
}
#else
inline float load(Float16 value) {
  _Float16 number;
  std::memcpy(&number, &value, sizeof number);
  return static_cast<float>(number);
}
inline void store(float value, Float16& place) {
  const auto number = static_cast<_Float16>(value);
  std::memcpy(&place, &number, sizeof number);
}
#endif

/// 16 bytes of a row, which a thread reads at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

/// Calls use(index, number) for the thread's numbers of a row; with `kWrites` what it returns is stored. Packs where
/// every row begins at one, else neighbouring threads have neighbouring numbers.
template <bool kWrites, class T, class Use>
LMHEAD_BOTH inline void for_each_number(T* row, std::int64_t size, int thread, int threads, const Use& use) {
  constexpr int kSize = Pack<T>::kSize;
  if (size % kSize == 0) {
    auto* packs = reinterpret_cast<Pack<T>*>(row);
    for (std::int64_t index = thread; index < size / kSize; index += threads) {
      Pack<T> pack = packs[index];
      for (int place = 0; place < kSize; ++place) {
        const float result = use(index * kSize + place, load(pack.values[place]));
        if constexpr (kWrites) store(result, pack.values[place]);
      }
      if constexpr (kWrites) packs[index] = pack;
    }
    return;
  }
  for (std::int64_t index = thread; index < size; index += threads) {
    const float result = use(index, load(row[index]));
    if constexpr (kWrites) store(result, row[index]);
  }
}

/// A row's numbers, and how they become logits.
template <class T>
struct LogitRow {
  LMHEAD_BOTH LogitRow(const LogitRowsTask& given, std::int64_t row)
      : task(given),
        index(row),
        numbers(static_cast<T*>(given.logits) + row * given.vocab_size),
        class_weight(given.class_weight ? given.class_weight + row * given.class_weight_stride : nullptr),
        inverse_temperature(given.temperature ? 1 / given.temperature[row] : 1) {}

  /// The logit of a product, divided by the temperature.
  LMHEAD_BOTH float logit(std::int64_t id, float product) const {
    const LogitTransform& transform = task.transform;
    float z = (task.bias ? product + task.bias[id] : product) * static_cast<float>(transform.scale);
    if (transform.softcap > 0) {
      z = softcapped(z, static_cast<float>(transform.softcap));
    } else if (transform.sigmoid_cap.height > 0) {
      const SigmoidCap& cap = transform.sigmoid_cap;
      z = sigmoid_capped(z, static_cast<float>(cap.height), static_cast<float>(cap.shift),
                         static_cast<float>(cap.width));
    } else if (transform.sigsoftmax) {
      z = sigsoftmaxed(z);
    }
    return z * inverse_temperature;
  }
  /// The derivative of `logit` with respect to the product, from its value.
  LMHEAD_BOTH float slope(float logit) const {
    const LogitTransform& transform = task.transform;
    const float temperature = 1 / inverse_temperature;
    float slope = 1;
    if (transform.softcap > 0) {
      const auto cap = static_cast<float>(transform.softcap) * inverse_temperature;
      slope = SoftcapSlope<float>{cap, 1 / cap}(logit);
    } else if (transform.sigmoid_cap.height > 0) {
      const auto height = static_cast<float>(transform.sigmoid_cap.height);
      slope =
          SigmoidCapSlope<float>{temperature / height, height / static_cast<float>(transform.sigmoid_cap.width)}(logit);
    } else if (transform.sigsoftmax) {
      slope = SigsoftmaxSlope<float>{temperature}(logit);
    }
    return slope * static_cast<float>(transform.scale) * inverse_temperature;
  }
  LMHEAD_BOTH bool is_weighted() const { return task.has_probabilities || task.label_smoothing != 0; }

  const LogitRowsTask& task;
  std::int64_t index;
  T* numbers;
  const float* class_weight;
  float inverse_temperature;
};

/// What some numbers of a row sum to.
struct RowSums {
  float max;       // of logits, -infinity where there are none
  float sum;       // of exp(z - max)
  float weighted;  // of class_weight (z - max)
  float weight;    // of class_weight
  // With kFigures:
  float moment;       // of exp(z - max) (z - max)
  std::int64_t best;  // the first place of max
};

LMHEAD_BOTH inline RowSums no_sums() { return {-static_cast<float>(HUGE_VAL), 0, 0, 0, 0, INT64_MAX}; }

/// The sums around another maximum, at least as large.
template <bool kFigures>
LMHEAD_BOTH inline RowSums around(RowSums sums, float max) {
  if (sums.max == max) return sums;
  RowSums result = sums;
  result.max = max;
  if (sums.max == -static_cast<float>(HUGE_VAL)) return result;
  const float difference = sums.max - max, factor = exponential(difference);
  result.sum = sums.sum * factor;
  result.weighted = sums.weighted + sums.weight * difference;
  if constexpr (kFigures) result.moment = factor == 0 ? 0 : factor * (sums.moment + sums.sum * difference);
  return result;
}

template <bool kFigures>
LMHEAD_BOTH inline RowSums joined(const RowSums& left, const RowSums& right) {
  const float max = right.max > left.max ? right.max : left.max;
  const RowSums a = around<kFigures>(left, max), b = around<kFigures>(right, max);
  RowSums both{max, a.sum + b.sum, a.weighted + b.weighted, a.weight + b.weight, 0, 0};
  if constexpr (kFigures) {
    both.moment = a.moment + b.moment;
    const std::int64_t of_left = left.max == max ? left.best : INT64_MAX,
                       of_right = right.max == max ? right.best : INT64_MAX;
    both.best = of_left < of_right ? of_left : of_right;
  }
  return both;
}

/// Of the thread's numbers of a row.
template <bool kFigures, class T>
LMHEAD_BOTH inline RowSums sums_of_thread(const LogitRow<T>& row, int thread, int threads) {
  RowSums sums = no_sums();
  const bool is_weighted = row.is_weighted();
  for_each_number<false>(row.numbers, row.task.vocab_size, thread, threads, [&](std::int64_t id, float product) {
    const float z = row.logit(id, product);
    if (z > sums.max) {
      sums = around<kFigures>(sums, z);
      if constexpr (kFigures) sums.best = id;
    }
    const float difference = z - sums.max;
    if (z > -static_cast<float>(HUGE_VAL)) {
      const float e = exponential(difference);
      sums.sum += e;
      if constexpr (kFigures) sums.moment += e == 0 ? 0 : e * difference;
    } else if (!(z == z)) {
      sums.sum = z;  // a NaN stays one
    }
    if (is_weighted) {
      const float weight = row.class_weight ? row.class_weight[id] : 1.f;
      if (weight != 0) sums.weighted += weight * difference;
      sums.weight += weight;
    }
    return 0.f;
  });
  return sums;
}

/// What a row's gradient is made of: scale (probability exp(z - max) - smoothing class_weight - target onehot) slope.
struct RowGradient {
  std::int64_t target;  // -1: none
  float max, probability, smoothing, at_target;
  float scale;
  bool is_kept;
};

/// The target's logit, to be asked for before any of the row is overwritten; of a target outside the vocabulary, which
/// nobody looks for before without waiting for the device, not a number, and so is the loss.
template <class T>
LMHEAD_BOTH inline float target_logit(const LogitRow<T>& row) {
  if (!row.task.targets) return 0;
  const std::int64_t target = row.task.targets[row.index];
  if (target < 0 || target >= row.task.vocab_size) return static_cast<float>(NAN);
  return row.logit(target, load(row.numbers[target]));
}

/// The row's loss, written with its sums and figures where `writes`, and its gradient's factors.
template <bool kFigures, class T>
LMHEAD_BOTH inline RowGradient finish_row(const LogitRow<T>& row, const RowSums& sums, float logit_of_target,
                                          bool writes) {
  const LogitRowsTask& task = row.task;
  const bool is_kept = !task.kept || task.kept[row.index];
  const float lse = std::log(sums.sum);
  const float logsumexp = sums.max + lse, smoothing = task.label_smoothing;
  const float classes = static_cast<float>(task.vocab_size);
  const float weight_sum = task.weight_sum ? task.weight_sum[row.index * task.weight_sum_stride] : classes;
  float loss = logsumexp, probability = 1, of_target = 0, of_class = 0;
  if (task.has_probabilities) {
    loss = lse * sums.weight - sums.weighted;
    probability = weight_sum;
    of_class = 1;
  } else if (task.targets) {
    of_target = (1 - smoothing) * task.target_weight[row.index];
    of_class = smoothing / classes;
    loss = of_target * (lse - (logit_of_target - sums.max));
    if (smoothing != 0) loss += of_class * (lse * sums.weight - sums.weighted);
    probability = of_target + of_class * weight_sum;
  }
  loss += task.z_loss * logsumexp * logsumexp;
  probability += 2 * task.z_loss * logsumexp;
  const float weight = task.token_weight ? task.token_weight[row.index] : 1;
  if (writes) {
    task.losses[row.index] = is_kept ? weight * loss : 0;
    task.row_sums[2 * row.index] = is_kept ? sums.max : 0;
    task.row_sums[2 * row.index + 1] = is_kept ? static_cast<double>(sums.max) + lse : 0;
  }
  if constexpr (kFigures) {
    if (writes) {
      float* figures = task.figures + kFiguresOfRow * row.index;
      const auto set = [&](RowFigure which, float value) { figures[static_cast<int>(which)] = is_kept ? value : 0; };
      set(RowFigure::kLogProbability, task.targets ? (logit_of_target - sums.max) - lse : 0);
      set(RowFigure::kCorrect, task.targets && task.targets[row.index] == sums.best);
      set(RowFigure::kLogsumexp, logsumexp);
      set(RowFigure::kEntropy, lse - sums.moment / sums.sum);
      set(RowFigure::kGradientSquare, 0);
    }
  }
  const float scale = task.upstream ? task.upstream[row.index * task.upstream_stride] * weight : 0;
  return {task.targets ? task.targets[row.index] : -1,
          sums.max,
          scale * probability / sums.sum,
          scale * of_class,
          scale * of_target,
          scale,
          is_kept};
}

/// With kFigures the sum of the thread's squares.
template <bool kFigures, class T>
LMHEAD_BOTH inline float write_gradient(const LogitRow<T>& row, const RowGradient& gradient, int thread, int threads) {
  float squares = 0;
  for_each_number<true>(row.numbers, row.task.vocab_size, thread, threads, [&](std::int64_t id, float product) {
    if (!gradient.is_kept) return 0.f;
    const float z = row.logit(id, product);
    float d = gradient.probability * exponential(z - gradient.max);
    if (gradient.smoothing != 0) d -= gradient.smoothing * (row.class_weight ? row.class_weight[id] : 1.f);
    if (id == gradient.target) d -= gradient.at_target;
    d *= row.slope(z);
    if constexpr (kFigures) squares += d * d;
    return d;
  });
  return squares;
}

/// Writes the sum of the squares of all threads.
template <class T>
LMHEAD_BOTH inline void write_squares(const LogitRow<T>& row, const RowGradient& gradient, float squares) {
  if (!gradient.is_kept) return;
  row.task.figures[kFiguresOfRow * row.index + static_cast<int>(RowFigure::kGradientSquare)] =
      squares / gradient.scale / gradient.scale;
}

}  // namespace lmhead::vector::LMHEAD_VECTOR_LEVEL
