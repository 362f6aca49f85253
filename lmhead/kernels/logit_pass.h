// One pass over the logits of a linear map, tile by tile: what each row sums to, and what its gradient gives.
//
// Never materialises [N, V]. Rows are taken in blocks; of a block either all logits are kept between computing the
// sums and forming the gradient (a buffer of rows x V), or, when the sums are known, one tile a thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "lmhead/kernels/linear_map.h"
#include "lmhead/kernels/linear_pieces.h"

namespace lmhead {

/// What is known of a row when all its tiles have been seen; all in nats.
struct RowOutcome {
  double max;
  double logsumexp;
  double target_logit;
  double weighted;  // sum over the vocabulary of class_weight (logsumexp - logit); where asked for
  double entropy;   // where asked for
  bool correct;     // the target is the first index of the largest logit; where asked for
  const double* range_logsumexp = nullptr;  // [ranges_per_row], minus infinity where no word stands in a range
};

/// Words [begin, end).
struct WordRange {
  std::int64_t begin, end;
};

/// What is added to the gradient of a row within a range: probability e^(logit - logsumexp), that being the range's.
struct RangeFactor {
  double logsumexp = 0, probability = 0;
};

/// The gradient of a row with respect to its product `hidden weight^T`, before the slope of the transform's map:
/// probability * p - target * onehot - smoothing * class_weight, or p (probability + moment * (logit - max)).
struct RowFactors {
  double max = 0, logsumexp = 0;  // of the row's logits
  double probability = 0, target = 0, smoothing = 0, moment = 0;
};

struct LogitPass {
  at::Tensor hidden;  // [n, D] contiguous, on the CPU: float32, float64 or bfloat16; with feature_ends [C n, D]
  std::int64_t made_rows = 0;  // n where `hidden` is undefined, because make_features does
  LinearMap map;               // weight [V, D] contiguous, of the type of `hidden`; bias [V] of any floating type
  LinearPieces pieces;         // where there are any: in place of the transform's map
  /// Whether rows of the weight count at length 1 (unit_rows.h); only where logits have no bias and no bend. d_weight
  /// is by the rows as they are.
  bool unit_rows = false;
  const std::int64_t* targets = nullptr;    // [n], each in [0, V); null: rows have none
  std::vector<double> inverse_temperature;  // [n] or empty: what logits are multiplied by after the transform
  at::Tensor class_weight;                  // [V] or undefined
  at::Tensor class_probabilities;           // [n, V] or undefined: multiply class_weight in each row, once
  double label_smoothing = 0;               // this share of them has been spread over all classes
  /// Words that do not stand in a row's distribution, as if their logits were minus infinity: ascending ids from
  /// absent[absent_begin[row]] to absent[absent_begin[row + 1]]. Empty: none. Only where the transform bends nothing.
  std::vector<std::int64_t> absent_begin, absent;  // [n + 1] or empty, and as many as there are
  /// Where words see different features: words from feature_ends[c - 1] to feature_ends[c] see the c-th n rows of
  /// `hidden`. Ascending, the last one V; empty: all see the same.
  std::vector<std::int64_t> feature_ends;
  /// Runs of words whose own logsumexp is wanted beside that of the whole row; factors by `on_group`, or known already.
  std::int64_t ranges_per_row = 0;
  std::vector<WordRange> ranges;           // [n, ranges_per_row]
  std::vector<RangeFactor> range_factors;  // [n, ranges_per_row]

  /// Where `hidden` is undefined, called before each block of rows, from any thread, for the block's C features: [rows,
  /// D] each, contiguous, of the weight's type. Blocks of one slot are worked at one after another.
  std::function<std::vector<at::Tensor>(std::int64_t slot, std::int64_t begin, std::int64_t rows)> make_features;
  /// Called with their gradients, in place of d_hidden, when they are formed; these are gone when it returns.
  std::function<void(std::int64_t slot, std::int64_t begin, std::int64_t rows,
                     const std::vector<at::Tensor>& gradients)>
      take_gradients;

  /// Called once a row, from any thread, and gives the row's factors; where this and the next are empty, `factors` are
  /// known already.
  std::function<RowFactors(std::int64_t row, const RowOutcome& outcome)> on_row;
  /// The same for `group` rows in turn, of which n is a multiple: row `first` and those behind it.
  std::function<void(std::int64_t first, const RowOutcome* outcomes, RowFactors* factors)> on_group;
  std::int64_t group = 1;
  bool wants_weighted = false, wants_more = false;
  std::vector<RowFactors> factors;  // [n] where both are empty

  bool wants_hidden = false, wants_weight = false, wants_bias = false, wants_squares = false, wants_slopes = false;
  /// Where positive: both products of a tile are left out, and what left_out_tile.h says stands for it, when no
  /// |gradient| in it but the targets' exceeds this share of its row's `target` factor.
  double filter_threshold = 0;

  /// Filled by `run` where wanted. Weight and hidden gradients are float32 (float64 for float64 input), the weight's
  /// bfloat16 where one product gives it and nothing is added up.
  at::Tensor d_hidden, d_weight, d_bias, squares;  // as `hidden`, [V, D], [V] float64, [n] float64
  std::vector<double> d_slopes;                    // of the pieces; sums of a tile's row in the type of its logits
  /// Tiles seen, tiles whose products the filter left out, and the sum of squares of what nothing stands for in those.
  std::int64_t tiles_seen = 0, tiles_skipped = 0;
  double skipped_square_sum = 0;

  /// What features and weight have in common.
  at::ScalarType type() const { return map.weight.scalar_type(); }
  std::int64_t rows() const {
    const std::int64_t all = hidden.defined() ? hidden.size(0) : made_rows;
    return hidden.defined() && !feature_ends.empty() ? all / std::int64_t(feature_ends.size()) : all;
  }

  /// Sums are formed in an order that depends only on shapes and on the number of threads. Memory beyond the results:
  /// rows_per_kept_block x V logits where both sums and gradients are wanted, else 512 x 1,024 a thread; and 512 x D a
  /// thread, for float32 1,472 x D. In bfloat16 a block may be all n rows (docs/kernels.md): at most 128 MiB of logits,
  /// n x 1,024 of them and n x D sums a thread.
  void run();
};

}  // namespace lmhead
