// What the fused row kernel for rows of logits is given: plain pointers into one device's memory, nothing of torch's,
// so that its library is compiled without torch and loaded beside any.
#pragma once

#include <cstdint>

#include "lmhead/kernels/logit_transform.h"

namespace lmhead {

/// How logits are stored; sums and gradients are float32 arithmetic.
enum class LogitStorage : std::int32_t { kFloat, kBfloat16, kFloat16 };

/// Rows of a chunk: products in, the gradient with respect to them out, in place. A pointer that may be null says so.
struct LogitRowsTask {
  void* logits;  // [rows, vocab_size]
  std::int64_t rows, vocab_size;
  LogitStorage storage;
  LogitTransform transform;
  const float* bias;         // [V], or null
  const float* temperature;  // [rows], or null
  const bool* kept;          // [rows]: all others cost nothing and have no gradient; or null: all are

  const std::int64_t* targets;  // [rows]; null: class probabilities, or no target, and the loss is the logsumexp
  const float* target_weight;   // [rows]: class weight of the target
  const float* token_weight;    // [rows], or null
  const float* class_weight;    // [V], or with `class_weight_stride` [rows, V] class weight times probability, or null
  const float* weight_sum;      // their sum, of every row with `weight_sum_stride` 1; or null: V
  std::int64_t class_weight_stride, weight_sum_stride;
  float label_smoothing, z_loss;
  bool has_probabilities;

  const float* upstream;  // of every row with `upstream_stride` 1; null: no gradient
  std::int64_t upstream_stride;
  float* losses;     // [rows]
  double* row_sums;  // [rows, 2]: largest logit and logsumexp, 0 where the row is not kept

  /// [rows, kFiguresOfRow], 0 where the row is not kept, or null: log p of the target and whether it is the first of
  /// the largest logits (0 without targets), logsumexp, entropy, and with `upstream` the sum of the squared gradient
  /// for an upstream of one. Of logits over their temperature.
  float* figures;
};

constexpr int kFiguresOfRow = 5;
enum class RowFigure { kLogProbability, kCorrect, kLogsumexp, kEntropy, kGradientSquare };

/// Queues the rows on `stream` of the current device; 0, or the number of a CUDA error.
using LogitRowsLauncher = int (*)(const LogitRowsTask& task, void* stream);

/// Of the library's functions below; another number is another layout of the task.
constexpr int kLogitRowsVersion = 2;

}  // namespace lmhead

extern "C" {
int lmhead_cuda_version();
int lmhead_cuda_logit_rows(const lmhead::LogitRowsTask& task, void* stream);
const char* lmhead_cuda_error_text(int error);
}
