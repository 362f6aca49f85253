// Cross-entropy of a linear map's logits, without keeping the logits.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <cstdint>

#include "lmhead/kernels/linear_map.h"
#include "lmhead/kernels/plain_logits.h"

namespace lmhead {

enum class Reduction { kNone, kMean, kSum };
/// The one that PyTorch calls "none", "mean" or "sum"; throws `[who] ...` for other names.
Reduction reduction_named(c10::string_view name, const char* who);
const char* reduction_name(Reduction reduction);

/// When gradients are formed. Fast: in the forward pass, three matrix products in all, beside a block of logits of at
/// most 128 MiB. Small: in the backward pass from recomputed logits, four products, beside one tile a thread.
enum class LinearCrossEntropyMode { kAuto, kFast, kSmall };

struct LinearCrossEntropyOptions {
  Reduction reduction = Reduction::kMean;  // mean divides by the class weights of the counted targets
  std::int64_t ignore_index = -100;        // rows with this target cost nothing
  double label_smoothing = 0;              // share of the target spread over all classes
  double z_loss = 0;                       // adds z_loss * logsumexp^2 to every token's loss
  at::Tensor class_weight = {};            // [V] or undefined
  at::Tensor token_weight = {};            // [N] or undefined; multiplies losses, not the divisor of the mean
  at::Tensor temperature = {};             // [N] or undefined; divides each token's logits, after every map
  LinearCrossEntropyMode mode = LinearCrossEntropyMode::kAuto;
};

/// Loss of `targets` under the logits that `map` gives for `hidden` [N, D]; 0-dim, or [N] for reduction none; float32,
/// or float64 for float64 features. Targets are ids, int64 [N], or class probabilities q, a floating [N, V], read as
/// they lie where they have the loss's type; the mean then divides by N and ignore_index means nothing.
///
/// With w the class weights, s the label smoothing and z the logits, a token's loss is
///   token_weight ((1 - s) w_y (lse(z) - z_y) + s / V sum_c w_c (lse(z) - z_c) + z_loss lse(z)^2),
/// where sum_c q_c w_c (lse(z) - z_c) stands for w_y (lse(z) - z_y) if there are class probabilities.
/// On the CPU float32, float64 and bfloat16 are tiled: products of bfloat16 accumulate in float32 and each tile's
/// product is rounded to bfloat16, everything else is float32 or wider. Other devices and types take chunks of rows
/// through ATen. Gradients: hidden, weight, bias; forward mode, transforms of torch.func and second derivatives are
/// those of the plain composition, at its cost.
/// float16 always takes the small mode, because the factor of loss scaling must
/// come before anything is rounded. Throws where shapes, types or targets do not fit.
/// The same thread count gives the same bits.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options = {});

/// The mode that kAuto means for these shapes and this reduction: never kAuto.
LinearCrossEntropyMode choose_linear_cross_entropy_mode(std::int64_t vocab_size, at::ScalarType type,
                                                        const LinearCrossEntropyOptions& options);
/// "auto", "fast" or "small".
const char* mode_name(LinearCrossEntropyMode mode);

/// What the filter left out.
struct FilterReport {
  std::int64_t tiles_seen = 0, tiles_skipped = 0;
  /// Frobenius norm of the part E of the gradient of the loss with respect to the products hidden weight^T that is
  /// missing. The gradients err by E weight and E^T hidden, so by at most this times the spectral norm of weight and of
  /// hidden.
  double skipped_gradient_norm = 0;
};
struct FilteredCrossEntropy {
  at::Tensor loss;
  FilterReport report;
};
/// linear_cross_entropy in fast mode (CPU; mean or sum) that leaves out both backward products of every tile in which
/// no |p - y| but the targets' own exceeds `threshold`. The targets' entries are added all the same, and for the rest
/// of the tile the rank-one matrix of its row and column sums, (rows + columns) D operations. The loss is exact. The
/// filter bites where rare ids stand together, see frequency_order.
FilteredCrossEntropy filtered_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map,
                                                   const at::Tensor& targets, double threshold,
                                                   const LinearCrossEntropyOptions& options = {});
/// Vocabulary ids by falling frequency, ties by id, from `counts` [V]: rank r holds id order[r]. Weight rows, bias and
/// class weights are permuted by index_select(0, order), targets by order.argsort()[targets].
at::Tensor frequency_order(const at::Tensor& counts);

/// The same loss by plain composition of ATen operations: materialises the logits; the oracle of the tests.
at::Tensor plain_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                      const LinearCrossEntropyOptions& options = {});

/// Loss of `targets` [N] under given `logits` [N, V], by plain composition.
at::Tensor plain_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                               const LinearCrossEntropyOptions& options = {});

/// What diagnostics need of every token, from a streaming pass; nothing of size N x V exists beyond a block of logits.
struct TokenStatistics {
  at::Tensor log_probability;        // [N] float32 (float64 for float64 input): log p of the target
  at::Tensor logsumexp;              // [N]
  at::Tensor entropy;                // [N] nats
  at::Tensor correct;                // [N] bool: the target is the first index of the largest logit
  at::Tensor logit_gradient_square;  // [N] || p - y ||^2 at the output of the linear map's product
  at::Tensor hidden_gradient;        // [N, D] W^T (p - y), before any division by N
};
/// The loss with its gradients as above, and the statistics of the same pass: p - y is that of plain cross-entropy,
/// whatever the options add to the loss, and rows whose target is ignored hold zeros.
/// Targets are ids. Costs no further product where
/// the options add nothing and the gradient of `hidden` is formed in the forward pass (fast mode), else one or two. No
/// gradients for the statistics.
struct CrossEntropyWithStatistics {
  at::Tensor loss;
  TokenStatistics statistics;
};
CrossEntropyWithStatistics linear_cross_entropy_with_statistics(const at::Tensor& hidden, const LinearMap& map,
                                                                const at::Tensor& targets,
                                                                const LinearCrossEntropyOptions& options = {});

/// Every target must lie in [0, V). No gradients are formed for the statistics themselves. Without `with_gradient` the
/// last two are left undefined, which saves half of the products. Memory: as linear_cross_entropy.
TokenStatistics token_statistics(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                 bool with_gradient = true);
/// The same by plain composition.
TokenStatistics plain_token_statistics(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                       bool with_gradient = true);

/// Throws unless the shapes, types and values of the arguments fit together (targets' values are not looked at).
void check_linear_cross_entropy(const at::Tensor& hidden, const LinearMap& map, const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options, const char* who);

}  // namespace lmhead
