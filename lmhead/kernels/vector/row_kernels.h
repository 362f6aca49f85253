// Operations on one row, compiled once for each instruction set and chosen at run time.
//
// Plain pointers and plain types only: this header is seen by files compiled for different instruction sets.
#pragma once

#include <cstdint>

#include "lmhead/kernels/linear_pieces.h"
#include "lmhead/kernels/logit_transform.h"

namespace lmhead::vector {

/// The upper half of a float32; same layout as c10::BFloat16.
struct Bfloat16 {
  std::uint16_t bits;
};

/// What one pass over a piece of a row of logits leaves behind.
struct LineSums {
  double max;            // -infinity where every logit is
  double sum;            // of exp(z - shift), where shift is max, and 0 where max is -infinity
  double weighted;       // of class_weight (z - shift); on request
  double entropy;        // of exp(z - shift) (z - shift); on request
  std::int64_t arg_max;  // first index of max; on request, else 0
  double weight;         // of class_weight; on request, where there are any
};

struct LineMoments {
  double sum, square_sum;
};

/// How products turn into a piece of a row of logits: transform(product + bias) / temperature.
struct LineTransform {
  LogitTransform transform = {};
  double inverse_temperature = 1;
  const LinearPieces* pieces = nullptr;  // where given, in place of the transform's map
};

/// How a piece of a row of logits turns into the gradient of the row's loss.
struct LineGradient {
  double shift;        // largest logit of the whole row
  double probability;  // factor of exp(z - shift)
  double smoothing;    // factor of class_weight, subtracted
  double target;       // subtracted at `target_index`, where that lies in the piece
  std::int64_t target_index;
  double moment = 0;            // factor of exp(z - shift) (z - shift); goes without the former two
  double* by_slopes = nullptr;  // [pieces' count] to which the loss's derivatives by their slopes are added
};

/// Operations on logits that are stored as T and computed as Wide (float for bfloat16 and float, else double).
template <class T, class Wide>
struct LogitKernels {
  /// The line of products that are `stored`: their logits, but under sigsoftmax without a temperature what the map is
  /// applied to, for its sums and gradient cost fewer exponentials from there. The functions below are told the same
  /// `transform`. `bias` may be null, and `line` may be `stored`.
  void (*load)(const T* stored, const Wide* bias, std::int64_t size, const LineTransform& transform, Wide* line);
  void (*store)(const Wide* line, std::int64_t size, T* stored);
  /// The logit that an entry of a line stands for.
  double (*logit)(Wide entry, const LineTransform& transform);
  /// Of its logits. `weighted` asks for that sum (over `class_weight`, or ones where it is null), `more` for entropy
  /// and arg_max.
  LineSums (*sums)(const Wide* line, std::int64_t size, const Wide* class_weight, bool weighted, bool more,
                   const LineTransform& transform);
  /// In place: a line to (probability * exp(z - shift) - target * onehot - smoothing * class_weight) times the slope of
  /// the transform's map, without its scale and without the temperature.
  void (*gradient)(Wide* line, std::int64_t size, const LineGradient& factors, const Wide* class_weight,
                   const LineTransform& transform);
  double (*dot)(const Wide* left, const Wide* right, std::int64_t size);
  /// Both sums of the line, which is added to `total` on the way.
  LineMoments (*moments)(const Wide* line, std::int64_t size, Wide* total);
  Wide (*magnitude)(const Wide* line, std::int64_t size);  // largest |value|; a NaN counts as infinity
  void (*add_to_double)(const Wide* line, std::int64_t size, double* sums);
  /// total = stored where `first`, else total + stored.
  void (*add)(const T* stored, std::int64_t size, bool first, Wide* total);
  void (*add_scaled)(const T* stored, std::int64_t size, double scale, Wide* total);
};

/// Operations of a decoder block; statistics are computed in Wide, gains are stored as Wide.
template <class In, class Out, class Wide>
struct NormKernels {
  /// output = input * inverse * weight with inverse = 1 / sqrt(mean(input^2) + eps), which is returned.
  Wide (*forward)(const In* input, const Wide* weight, std::int64_t size, double eps, Out* output);
  /// d_input from d_output; adds d_output * input * inverse to `d_weight`. Either result may be null.
  void (*backward)(const Out* d_output, const In* input, const Wide* weight, Wide inverse, std::int64_t size,
                   In* d_input, Wide* d_weight);
};

template <class T, class Wide>
struct BlockKernels {
  void (*swiglu)(const T* gate, const T* up, std::int64_t size, T* output);
  void (*swiglu_backward)(const T* d_output, const T* gate, const T* up, std::int64_t size, T* d_gate, T* d_up);
  /// In each of `heads` rows of `width`, turns the pairs (input[i], input[half + i]) by the angle of (cosine[i],
  /// direction * sine[i]) and copies what lies beyond 2 half.
  void (*rotate)(const T* input, const Wide* cosine, const Wide* sine, double direction, std::int64_t half,
                 std::int64_t heads, std::int64_t width, T* output);
};

/// One head of attention over one sequence: rows of `width` numbers, `stride` apart, scores multiplied by `scale`.
template <class T>
struct AttentionHead {
  const T *query, *key, *value;
  std::int64_t stride, length, width;
  T scale;
};
/// Where its gradients go: that of the query is set, those of key and value are added to.
template <class T>
struct AttentionGradient {
  T *query, *key, *value;
  std::int64_t stride;
};

template <class T>
struct AttentionKernels {
  /// Numbers of T that the others need as workspace.
  std::int64_t (*workspace)(std::int64_t length, std::int64_t width);
  /// output = softmax over the keys up to each query, times value; `log_sums` [length] keeps the logs of the softmax's
  /// sums.
  void (*forward)(const AttentionHead<T>& head, T* output, std::int64_t output_stride, T* log_sums, T* workspace);
  void (*backward)(const AttentionHead<T>& head, const T* output, const T* d_output, std::int64_t output_stride,
                   const T* log_sums, const AttentionGradient<T>& gradient, T* workspace);
  /// In place: scores to exp(score - largest), and returns their sum. At least one of them must be above -infinity.
  T (*exponentials)(T* scores, std::int64_t size);
};

struct PackingKernels {
  /// out [columns, rows] is in [rows, columns] turned; strides are the distances between rows.
  void (*turn)(const std::uint32_t* in, std::int64_t rows, std::int64_t columns, std::int64_t in_stride,
               std::uint32_t* out, std::int64_t out_stride);
  /// pairs[i] holds even[i] and, in its upper half, odd[i]; that is 0 where `odd` is null.
  void (*interleave)(const Bfloat16* even, const Bfloat16* odd, std::int64_t size, std::uint32_t* pairs);
};

/// Products of columns in float64, a block of `rows` by `columns` at a time.
struct GramKernels {
  int rows, columns;  // `columns` is a multiple of `rows`
  /// A panel [count, columns] of a matrix whose rows lie `stride` apart; of `given` columns, zeros behind them.
  void (*pack_float)(const float* matrix, std::int64_t count, std::int64_t stride, std::int64_t given, double* panel);
  void (*pack_double)(const double* matrix, std::int64_t count, std::int64_t stride, std::int64_t given, double* panel);
  void (*pack_bfloat16)(const Bfloat16* matrix, std::int64_t count, std::int64_t stride, std::int64_t given,
                        double* panel);
  /// products [rows, columns] = the first `rows` columns of `left` transposed times `right`, both panels.
  void (*multiply)(const double* left, const double* right, std::int64_t count, double* products);
};

/// Every operation for one instruction set.
struct RowKernels {
  const char* name;
  PackingKernels packing;
  GramKernels gram;
  LogitKernels<float, float> logits_float;
  LogitKernels<double, double> logits_double;
  LogitKernels<Bfloat16, float> logits_bfloat16;
  NormKernels<float, float, float> norm_float;
  NormKernels<float, Bfloat16, float> norm_float_bfloat16;
  NormKernels<Bfloat16, Bfloat16, float> norm_bfloat16;
  NormKernels<Bfloat16, float, float> norm_bfloat16_float;
  NormKernels<double, double, double> norm_double;
  BlockKernels<float, float> block_float;
  BlockKernels<double, double> block_double;
  BlockKernels<Bfloat16, float> block_bfloat16;
  AttentionKernels<float> attention_float;
  AttentionKernels<double> attention_double;
};

/// The kernels for the best instruction set that both this build and this machine have. ATen's own choice is
/// followed, its environment variable ATEN_CPU_CAPABILITY included.
const RowKernels& row_kernels();

}  // namespace lmhead::vector
